# SPDX-License-Identifier: Apache-2.0
#
# A thin front to CMake. The two commands that matter:
#   make run    install what is missing, build, quantize the embedded model to 4 bits, speak
#   make test   install what is missing, build, run every test
#
# BUILD=folder builds elsewhere, CC=gcc chooses the compiler of a new build folder (an old one keeps its own), JOBS=1
# compiles and tests one thing at a time. Recipes read BUILD from the environment, so that no name that it may have is
# taken apart by the shell.

BUILD ?= build
JOBS  ?= $(shell getconf _NPROCESSORS_ONLN)
export BUILD JOBS
MAKEFLAGS += --no-print-directory

.PHONY: all build run test check lint bench install clean setup format

all: build

setup:
	@scripts/setup build

build: setup
	@scripts/configure "$$BUILD" -DCMAKE_BUILD_TYPE=Release
	@cmake --build "$$BUILD" -j "$$JOBS" --target marlin

run: build
	@scripts/speak "$$BUILD"

# Everything: what `make run` does, release tests, sanitizers, other instruction sets, source rules.
test:
	@scripts/setup test
	@scripts/test all

# The fast subset, under a minute once it is compiled.
check:
	@scripts/setup test
	@scripts/test check

lint:
	@scripts/setup lint
	@scripts/lint

format:
	@find src include tests tools examples bench -name '*.[ch]' 2>/dev/null | xargs clang-format -i

bench: build
	@"$$BUILD/marlin" bench

install: build
	@cmake --install "$$BUILD"

# Only folders that CMake made: BUILD may name anything.
clean:
	@for dir in "$$BUILD" "$$BUILD"-*; do if [ -f "$$dir/CMakeCache.txt" ]; then rm -rf -- "$$dir"; fi; done
