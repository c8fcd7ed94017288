# Every target brings what it needs and says what to install where it cannot.
#
#   make demo    builds two jobs and runs them on samples and on 256 MiB of text
#   make test    all tests
#   make faults  the tests of killed, stopped and lying processes, over and over; FAULTS=50 says how often
#   make check   format, lints, documentation, unused dependencies; changes nothing
#   make sanitize  the unsafe code under AddressSanitizer
#   make fix     formats, and applies what the lints suggest
#   make bench   data, jobs and hand-written limits side by side; BENCH='--rounds 9 sort' for some rows, BENCH=--large for 10 GiB
#   make kernels the inner loops alone, on a few MiB; KERNELS=csv for those with a name
#
# Only the release profile is used, so that dependencies are built once.

TARGET := $(or $(CARGO_TARGET_DIR),target)
DEMO := $(TARGET)/demo
RUST_MINOR := 95

FAULTS := 10

.PHONY: setup setup-check demo test faults check fix sanitize bench kernels

setup:
	@command -v cargo >/dev/null && command -v rustc >/dev/null || { \
	  echo "Rust is missing. Install it, open a new shell and try again:"; \
	  echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"; exit 1; } >&2
	@test "$$(rustc --version | cut -d. -f2)" -ge $(RUST_MINOR) || { \
	  echo "$$(rustc --version) is too old, 1.$(RUST_MINOR) is needed. Install it:"; \
	  echo "  rustup update stable"; exit 1; } >&2
	@command -v cc >/dev/null || { \
	  echo "A C compiler is missing (zstd, bzip2 and mimalloc are written in C). Install one:"; \
	  echo "  Debian, Ubuntu:  sudo apt-get install build-essential"; \
	  echo "  Fedora:          sudo dnf install gcc"; \
	  echo "  Alpine:          sudo apk add build-base"; \
	  echo "  macOS:           xcode-select --install"; exit 1; } >&2
	@cargo fetch --locked --quiet

setup-check: setup
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { \
	  echo "rustfmt or clippy is missing. Install both:"; \
	  echo "  rustup component add rustfmt clippy"; exit 1; } >&2

demo: setup
	cargo build --release --locked --workspace --bins
	@mkdir -p $(DEMO)
	@echo; echo "== Words of a short text in many scripts: the ten most frequent"
	$(TARGET)/release/word-count run --input datasets/samples/harbour.txt --output $(DEMO)/words --overwrite -q
	@cat $(DEMO)/words/part-*.csv | $(MOST_FREQUENT)
	@echo; echo "== Sales by city, from CSV with newlines inside of fields"
	$(TARGET)/release/aggregate run --input datasets/samples/sales.csv --output $(DEMO)/sales --overwrite -q \
	  --group-by city --aggregate 'count() as sales' --aggregate 'sum(price * quantity) as revenue' --aggregate 'max(price) as highest'
	@awk -F, '{ printf "  %-12s %6s %14s %10s\n", $$1, $$2, $$3, $$4 }' $(DEMO)/sales/part-*.csv
	@echo; echo "== Words of 256 MiB of generated text: the ten most frequent"
	@test -e $(DEMO)/text.txt || $(TARGET)/release/generate text $(DEMO)/text.txt 256 1000000 1.0 1 >/dev/null
	$(TARGET)/release/word-count run --input $(DEMO)/text.txt --output $(DEMO)/many-words --overwrite
	@cat $(DEMO)/many-words/part-*.csv | $(MOST_FREQUENT)
	@echo; echo "== The same on a cluster of a coordinator and two workers: the same bytes"
	$(TARGET)/release/coordinator run word-count --workers 2 --input $(DEMO)/text.txt --output $(DEMO)/cluster-words --overwrite
	@for part in $(DEMO)/many-words/part-*.csv; do cmp $$part $(DEMO)/cluster-words/$${part##*/} || exit 1; done
	@echo "  all parts are equal"

# Each part begins with a header. A count stands behind the last comma; words hold commas too.
MOST_FREQUENT := LC_ALL=C sed -n '/,[0-9][0-9]*$$/s/\(.*\),\(.*\)/\2 \1/p' | LC_ALL=C sort -k1,1nr -k2 | head -10 | sed 's/^/  /'

test: setup
	cargo test --release --locked --workspace

faults: setup
	for round in $$(seq $(FAULTS)); do cargo test --release --locked --workspace --test faults || exit 1; done

check: setup-check
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps
	.ci/unused-dependencies

fix: setup-check
	cargo fmt --all
	cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged

# The code with `unsafe` in it under AddressSanitizer, with memory from the system's allocator instead of pages and mimalloc. It has a
# target directory of its own, as its compiler is not the usual one (.ci/rustc); .ci/run has built all but these two packages with it.
SANITIZE := $(TARGET)/sanitize
SANITIZED := shardmill shardmill-datasets

sanitize: setup
	SHARDMILL_SANITIZE=address RUSTC_WRAPPER="$(CURDIR)/.ci/rustc" CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
	  PROPTEST_CASES=10 cargo test --release --locked --target-dir $(SANITIZE) --lib \
	  $(foreach package,$(SANITIZED),-p $(package) --config 'profile.release.package.$(package).debug="line-tables-only"') -- \
	  engine:: words:: key:: merge:: format::csv table::split table::masks table::csv

bench: setup
	cargo build --release --locked --workspace --bins
	$(TARGET)/release/bench --data $(TARGET)/bench $(BENCH)

# The profile of benches is the release profile by another name, and the whole workspace is selected so that features are, too:
# nothing is built anew.
kernels: setup
	cargo bench --locked --workspace --bench kernels -- --noplot $(KERNELS)
