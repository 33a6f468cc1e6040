# Type "make" for the list of targets.

SHELL		= /bin/bash
.SHELLFLAGS	= -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:

# An nginx source tree to build and test against; empty: Debian's nginx-dev.
NGINX_SRC	=
# Of the install target.
DESTDIR		=
PREFIX		= /usr/local
MODULES_DIR	= /usr/lib/nginx/modules

ROOT		:= $(CURDIR)
SO		:= build/ngx_kong_shift_module.so
CORE		:= ngx_kong_shift_module/core
SOURCES		:= $(wildcard ngx_kong_shift_module/*/*.[ch])
CORE_SOURCES	:= $(wildcard $(CORE)/*.c)
UNIT_TESTS	:= $(patsubst t/unit/%.c,build/unit/%,\
		     $(wildcard t/unit/test_*.c))
FUZZ_TARGETS	:= $(patsubst t/fuzz/%.c,build/fuzz/%,\
		     $(wildcard t/fuzz/fuzz_*.c))
FUZZ_SECONDS	= 60
TEST_NGINX	:= build/test-nginx
GENERATED	:= build/kong-shift.8 build/kong-shift.completion

ifeq ($(NGINX_SRC),)
TREE		:= build/nginx
NGINX		:= /usr/sbin/nginx
VERSION		= dpkg-query -W -f '$${Version}' nginx-dev
else
TREE		:= build/nginx-$(notdir $(abspath $(NGINX_SRC)))
NGINX		:= $(ROOT)/$(TREE)/objs/nginx
VERSION		= realpath '$(NGINX_SRC)'
endif

CC_OPT		= -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2
WARNINGS	= -Wall -Wextra -Werror
SANITIZE	= -fsanitize=address,undefined -fno-omit-frame-pointer

# What nginx is built with when it is built here.
NGINX_FLAGS	= --with-compat --with-debug --with-pcre-jit --with-threads \
		  --with-http_auth_request_module --with-http_realip_module \
		  --with-http_ssl_module --with-http_stub_status_module \
		  --with-http_v2_module --with-stream \
		  --with-stream_ssl_module --with-stream_ssl_preread_module

# nginx's own code does on purpose what is left out here, and an allocation
# of its pools is seen by the sanitizers only if it is a malloc() of its own.
ASAN_CC_OPT	= -O1 -g $(SANITIZE) -DNGX_DEBUG_PALLOC=1 \
		  -fno-sanitize=alignment,nonnull-attribute,pointer-overflow,shift


help:		## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' \
	    $(firstword $(MAKEFILE_LIST))

deps:		## install the Debian packages needed, if any is missing
	@scripts/deps

build:		## build/ngx_kong_shift_module.so; NGINX_SRC=TREE: for that nginx
build: $(SO) $(GENERATED)

test:		## unit, lint, bats, Test::Nginx; KONG_SHIFT_LONG=1: the long forms
test: unit lint cli http

demo:		## a whole hybrid upgrade under load; KONG_X=, KONG_Y= for real Kong
demo: build
	@TEST_NGINX_BINARY='$(NGINX)' scripts/demo

unit:		## unit tests of core/ with sanitizers, and its link check
unit: $(UNIT_TESTS) purity
	@[[ -n "$(UNIT_TESTS)" ]] || { echo "no unit tests"; exit 1; }
	@for t in $(UNIT_TESTS); do echo "$$t"; "$$t"; done

cli:		## bats tests of the script and of the stand-in for Kong
cli: build
	@bats --jobs "$$(nproc)" --no-parallelize-within-files t/cli

http:		## Test::Nginx tests of the module
http: build $(TEST_NGINX)
	@scripts/prove '$(NGINX)' '$(ROOT)/$(SO)'

asan:		## unit tests and Test::Nginx on nginx and module with sanitizers
asan: unit build/asan/.built $(TEST_NGINX)
	@SANITIZER_REPORTS='$(ROOT)/build/asan/reports' scripts/prove \
	    '$(ROOT)/build/asan/objs/nginx' \
	    '$(ROOT)/build/asan/objs/$(notdir $(SO))'

fuzz:		## the parsers, each for FUZZ_SECONDS
fuzz: $(FUZZ_TARGETS)
	@for t in $(FUZZ_TARGETS); do \
	    echo "$$t"; \
	    mkdir -p "$$t.corpus"; \
	    "$$t" -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -verbosity=0 \
	        -print_final_stats=1 -artifact_prefix=build/fuzz/ \
	        "$$t.corpus" "t/fuzz/corpus/$${t##*/}"; \
	done

memcheck:	## 1,000 requests with reloads under valgrind
memcheck: build
	@TEST_NGINX_BINARY='$(NGINX)' scripts/memcheck

cost:		## instructions per request, against plain nginx
cost: build
	@TEST_NGINX_BINARY='$(NGINX)' scripts/cost

lint:		## compiler warnings, clang-tidy, cppcheck, shellcheck, style
lint: build
	@scripts/lint '$(TREE)' $(WARNINGS)

install:	## module and script to DESTDIR, MODULES_DIR, PREFIX
install: build install-script
	install -D -m 644 $(SO) '$(DESTDIR)$(MODULES_DIR)/$(notdir $(SO))'

install-script:	## the script alone, with manual page and completion
install-script: $(GENERATED)
	install -d '$(DESTDIR)$(PREFIX)/lib/kong-shift/lib' \
	    '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 scripts/kong-shift '$(DESTDIR)$(PREFIX)/lib/kong-shift'
	install -m 644 scripts/lib/* '$(DESTDIR)$(PREFIX)/lib/kong-shift/lib'
	ln -sf ../lib/kong-shift/kong-shift '$(DESTDIR)$(PREFIX)/bin/kong-shift'
	install -D -m 644 build/kong-shift.8 \
	    '$(DESTDIR)$(PREFIX)/share/man/man8/kong-shift.8'
	install -D -m 644 build/kong-shift.completion \
	    '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/kong-shift'

clean:		## remove build/
	rm -rf build


# The nginx that is built for, and its version: a change of either is a new
# build.
build/.flavor: FORCE | deps
	@mkdir -p build
	@f="$(TREE) $$($(VERSION))"; \
	    [[ -e $@ && $$(< $@) == "$$f" ]] || echo "$$f" > $@

ifeq ($(NGINX_SRC),)
$(TREE)/objs/Makefile: config build/.flavor
	rm -rf $(TREE)
	cp -rL /usr/share/nginx/src $(TREE)
	. $(TREE)/conf_flags && cd $(TREE) \
	    && ./configure "$${NGX_CONF_FLAGS[@]}" --with-cc-opt='$(CC_OPT)' \
	           --add-dynamic-module='$(ROOT)' > configure.log
else
$(TREE)/objs/Makefile: config build/.flavor
	rm -rf $(TREE)
	mkdir -p $(TREE)
	tar -C '$(NGINX_SRC)' --exclude=./objs --exclude=./Makefile \
	    --exclude-vcs -cf - . | tar -C $(TREE) -xf -
	cd $(TREE) && [[ -x configure ]] || ln -s auto/configure configure
	cd $(TREE) && ./configure $(NGINX_FLAGS) --with-cc-opt='$(CC_OPT)' \
	           --add-dynamic-module='$(ROOT)' > configure.log
endif

# renamed into place, since an nginx may have the old one mapped
$(SO): $(TREE)/objs/Makefile $(SOURCES)
	$(MAKE) -s -C $(TREE) -f objs/Makefile $(if $(NGINX_SRC),,modules)
	cp $(TREE)/objs/$(notdir $(SO)) $@.new
	mv $@.new $@

SCRIPT		:= scripts/kong-shift $(wildcard scripts/lib/*.bash)
build/kong-shift.8: scripts/man-page docs/settings.md CHANGES $(SCRIPT)
	@mkdir -p build
	scripts/man-page > $@

build/kong-shift.completion: scripts/completion $(SCRIPT)
	@mkdir -p build
	scripts/completion > $@

build/asan/.built: config $(SOURCES) build/nginx-source build/.flavor
	rm -rf build/asan
	cp -r build/nginx-source build/asan
	cd build/asan && ./configure $(NGINX_FLAGS) \
	    --with-cc-opt='$(ASAN_CC_OPT)' --with-ld-opt='$(SANITIZE)' \
	    --add-dynamic-module='$(ROOT)' > configure.log
	$(MAKE) -s -j2 -C build/asan -f objs/Makefile
	touch $@

build/nginx-source: | deps
	scripts/debian-fetch source nginx $@

$(TEST_NGINX): | deps
	scripts/debian-fetch deb libtest-nginx-perl $@

build/unit/%: t/unit/%.c $(CORE_SOURCES) $(wildcard $(CORE)/*.h t/unit/*.h) \
	      | deps
	@mkdir -p $(@D)
	$(CC) -std=gnu99 -g -O1 $(WARNINGS) $(SANITIZE) \
	    -fno-sanitize-recover=all -I$(CORE) -o $@ $< $(CORE_SOURCES)

# What a parser needs of nginx is its strings and pools.
NGX_CORE	:= build/nginx-source/src/core
build/fuzz/fuzz_state build/fuzz/fuzz_body: PARSER := t/fuzz/nginx_stubs.c \
	$(NGX_CORE)/ngx_string.c $(NGX_CORE)/ngx_palloc.c \
	$(NGX_CORE)/ngx_array.c $(NGX_CORE)/ngx_times.c \
	$(NGX_CORE)/ngx_parse.c \
	build/nginx-source/src/os/unix/ngx_alloc.c \
	build/nginx-source/src/os/unix/ngx_time.c
build/fuzz/fuzz_body: PARSER += \
	ngx_kong_shift_module/state/ngx_kong_shift_json.c \
	ngx_kong_shift_module/http/ngx_http_kong_shift_parse.c \
	ngx_kong_shift_module/http/ngx_http_kong_shift_problem.c

build/fuzz/%: t/fuzz/%.c t/fuzz/nginx_stubs.c $(SOURCES) build/nginx-source \
	      $(TREE)/objs/Makefile
	@mkdir -p $(@D)
	clang -g -O1 -fsanitize=fuzzer,address,undefined \
	    -fno-sanitize=alignment,nonnull-attribute,pointer-overflow,shift \
	    $(addprefix -Ingx_kong_shift_module/,core state http) \
	    $(addprefix -isystem build/nginx-source/src/,core event \
	        event/modules os/unix http http/modules http/v2) \
	    -isystem $(TREE)/objs -o $@ $< $(CORE_SOURCES) $(PARSER) \
	    -ljansson -lcrypto

# core/ must link without nginx: what it leaves undefined is not nginx's.
purity: $(CORE_SOURCES) | deps
	@mkdir -p build/core
	@for c in $(CORE_SOURCES); do \
	    $(CC) -std=gnu99 -O1 -I$(CORE) -c -o "build/core/$$(basename "$$c" .c).o" \
	        "$$c"; \
	done
	@foreign=$$(comm -23 <(nm -u build/core/*.o | awk '/ ngx_/ { print $$2 }' \
	                       | sort -u) \
	                     <(nm --defined-only build/core/*.o \
	                       | awk 'NF == 3 { print $$3 }' | sort -u)); \
	    [[ -z $$foreign ]] || { echo "core/ needs nginx: $$foreign"; exit 1; }


FORCE:

.PHONY: help deps build test demo unit cli http asan fuzz memcheck cost lint \
	install install-script clean purity FORCE
