# SPDX-License-Identifier: Apache-2.0
#
# A thin front to CMake. The two commands that matter:
#   make run    install what is missing, build, quantize the embedded model to 4 bits, speak
#   make test   install what is missing, build, run every test
#
# `make help` lists them all. BUILD=folder builds elsewhere, CC=gcc chooses the compiler of a new build folder (an old one keeps its own), JOBS=1
# compiles and tests one thing at a time. Recipes read BUILD from the environment, so that no name that it may have is
# taken apart by the shell.

BUILD ?= build
JOBS  ?= $(shell getconf _NPROCESSORS_ONLN)
# Where `make install` puts things: $(DESTDIR)$(PREFIX)/bin, .../$(LIBDIR), .../share.
PREFIX  ?= /usr/local
LIBDIR  ?= lib
DESTDIR ?=
export BUILD JOBS PREFIX LIBDIR DESTDIR
MAKEFLAGS += --no-print-directory

.PHONY: all build run test check lint bench install uninstall clean setup format help

all: build

help:
	@echo 'make               build the program and the library in $$BUILD (default: build)'
	@echo 'make run           build, quantize the embedded model to 4 bits, speak'
	@echo 'make check         the fast tests and the source rules'
	@echo 'make test          every test'
	@echo 'make lint          clang-format, clang-tidy, cppcheck, source rules'
	@echo 'make format        clang-format in place'
	@echo 'make bench         measure the embedded model'
	@echo 'make install       program, library, headers, models, Python package, manual page'
	@echo 'make uninstall     remove what the last make install of $$BUILD put there'
	@echo 'make clean         remove $$BUILD and $$BUILD-*'
	@echo
	@echo 'BUILD=folder  JOBS=n  CC=gcc (a new build folder)'
	@echo 'PREFIX=/usr/local  LIBDIR=lib (below PREFIX)  DESTDIR= (put in front of PREFIX)'

setup:
	@scripts/setup build

build: setup
	@scripts/configure "$$BUILD" -DCMAKE_BUILD_TYPE=Release
	@cmake --build "$$BUILD" -j "$$JOBS" --target product

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

install: setup
	@scripts/configure "$$BUILD" -DCMAKE_BUILD_TYPE=Release "-DCMAKE_INSTALL_PREFIX=$$PREFIX" "-DCMAKE_INSTALL_LIBDIR=$$LIBDIR"
	@cmake --build "$$BUILD" -j "$$JOBS" --target product
	@cmake --install "$$BUILD"

uninstall:
	@scripts/uninstall "$$BUILD"

# Only folders that CMake made: BUILD may name anything.
clean:
	@for dir in "$$BUILD" "$$BUILD"-*; do if [ -f "$$dir/CMakeCache.txt" ]; then rm -rf -- "$$dir"; fi; done
