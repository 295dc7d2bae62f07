# SPDX-License-Identifier: GPL-2.0
#
# What a person types. Everything but kvm-mmio is built in a cache outside the clone;
# the scripts in lab/ know where, and do nothing when nothing has changed.

# Own tools, sources and trees; also taken from the environment.
export RUSTC LLVM BINDGEN CARGO KSRC
$(foreach name,RUSTC LLVM BINDGEN CARGO KSRC,$(if $($(name)),,$(eval unexport $(name))))

.PHONY: help setup kernel modules modules_install tools examples install deb demo check check-long check-packages check-first mutants selftests fuzz bench check-here bench-here macro shell lint clean distclean
.DEFAULT_GOAL := help

help:		## this text
	@sed -n 's/^\([a-z_-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: python	## make the lab's own Debian, and get what else it needs
	@lab/setup

kernel: python	## build the patched kernel of the test machines
	@lab/kernel release

modules: python	## build kvm_mmio_ext.ko (KDIR=tree: for your own kernel; KERNEL=release: Debian's)
	@lab/modules $(if $(KDIR),--kdir "$(KDIR)") $(if $(KERNEL),--kernel "$(KERNEL)")

modules_install:	## install kvm_mmio_ext.ko for your own kernel (KDIR=tree), once it is built
	@[ -n "$(KDIR)" ] || { echo "name a kernel tree: make KDIR=... modules_install" >&2; exit 1; }
	@[ -e "$(or $(MO),.)/modules.order" ] || \
		{ echo "build it first: make KDIR=$(KDIR) modules" >&2; exit 1; }
	@$(MAKE) --no-print-directory -C "$(KDIR)" M="$(CURDIR)" modules_install

# With a person's own cargo, or else in the lab's Debian; the command is static. It ends with what
# is missing if that person has no clang.
tools:		## build the command kvm-mmio
	@$(if $(shell command -v "$(or $(CARGO),cargo)"),,lab/enter) \
		$(MAKE) --no-print-directory -C tools/kvm-mmio

examples:	## build the reference VMM, examples/mmio-vmm
	@$(if $(shell command -v "$(or $(CARGO),cargo)"),,lab/enter) \
		$(MAKE) --no-print-directory -C examples/mmio-vmm

install:	## install kvm-mmio, once it is built (PREFIX=, DESTDIR=)
	@$(MAKE) --no-print-directory -C tools/kvm-mmio install

deb: python	## make the packages kvm-mmio-ext-dkms and kvm-mmio, for Debian's kernels as they are
	@lab/deb

demo: python	## measure a guest's MMIO with the extension off and on
	@lab/demo

check: python	## run all tests on the host and on three machines
	@lab/check

check-long: python	## the same for longer, and on kernels that check themselves
	@lab/check --long
	@lab/check --kernel debug --machine svm
	@lab/check --kernel kcsan

check-packages: python	## install the packages in a Debian of their own, boot it, remove them
	@lab/packages
	@lab/packages --kernel stock-7.2 --quick

check-first: python	## run make demo, or check, as the first command on Debian machines in several states
	@lab/first

mutants: python	## break the extension in many places and see that a test notices each
	@lab/mutants

selftests: python	## run the kernel's own KVM selftests, extension off and on
	@lab/kselftests

fuzz: python	## compare random guests, extension off and on (MINUTES=10)
	@lab/fuzz $(or $(MINUTES),10)

bench: python	## measure everything on all machines (BASE=run.json: compare)
	@lab/bench $(if $(BASE),--base "$(BASE)")

check-here: python	## test this machine's own KVM, with the module loaded (KDIR=tree: C tests too)
	@lab/here check $(if $(KDIR),--kdir "$(KDIR)")

bench-here: python	## measure on this machine's own KVM, with the module loaded
	@lab/here bench

macro: python	## measure what a Linux guest gains: on QEMU's microvm and q35, in the reference VMM
	@lab/macro
	@lab/vmm --bench

shell: python	## a shell on machine svm with the modules loaded
	@lab/run --shell

lint: python	## check the style of all sources
	@lab/lint

clean:		## remove the module and tests built for this clone, not the kernels
	@rm -rf "$$(dirname "$$(lab/modules --print-dir)")" tools/kvm-mmio/target \
		examples/mmio-vmm/target

distclean: clean	## remove the whole cache: kernels, downloads, the lab's own Debian
	@lab/setup --remove

# The scripts are Python; a minimal Debian has none. What a person has named must be there before
# anything is installed.
.PHONY: python
python:
	@command -v python3 > /dev/null || { \
		for tool in $(RUSTC) $(BINDGEN) $(CARGO); do \
			command -v "$$tool" > /dev/null || \
				{ echo "$$tool not found: install it or name another" >&2; exit 1; }; \
		done; .ci/install python3; }
