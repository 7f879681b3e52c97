# SPDX-License-Identifier: Apache-2.0
#
# A thin front to CMake. The two commands that matter:
#   make run    install what is missing, build, quantize the embedded model to 4 bits, speak
#   make test   install what is missing, build, run every test

BUILD  ?= build
CC     := $(shell command -v clang >/dev/null 2>&1 && echo clang || echo cc)
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
CONFIG := -DCMAKE_BUILD_TYPE=Release -DMARLIN_TESTS=OFF -DCMAKE_C_COMPILER=$(CC)
CTEST  := ctest --output-on-failure --timeout 300

.PHONY: all build run test check lint bench install clean setup format

all: build

setup:
	@scripts/setup build

build: setup
	@cmake -S . -B $(BUILD) $(CONFIG) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }; rm -f $(BUILD).log
	@cmake --build $(BUILD) -j $(JOBS) --target marlin

# The embedded model at 4 bits, made anew when the quantizer or the model has changed.
SMALL := $(BUILD)/marlin-12m-4bit
$(SMALL)/checksums.json: $(wildcard models/marlin-12m/* src/quantization/*/*.[ch] src/packing/*.[ch])
	@rm -rf $(SMALL)
	@$(BUILD)/marlin quantize models/marlin-12m -o $(SMALL) -b 4 --effort low

run: build
	@$(MAKE) --no-print-directory $(SMALL)/checksums.json
	@$(BUILD)/marlin run $(SMALL)

# Everything: release tests, sanitizers, other instruction sets, source rules.
test:
	@scripts/setup test
	@scripts/test all

# The fast subset, under a minute.
check:
	@scripts/setup test
	@scripts/test check

lint:
	@scripts/setup lint
	@scripts/lint

format:
	@find src include tests tools examples bench -name '*.[ch]' 2>/dev/null | xargs clang-format -i

bench: build
	@$(BUILD)/marlin bench

install: build
	@cmake --install $(BUILD)

clean:
	@rm -rf $(BUILD) $(BUILD)-*
