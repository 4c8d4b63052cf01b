/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of the eBPF executor; `cargo xtask bpf --write` makes dyad.bpf.o of them. None of the helpers they call
 * is for GPL programs only, so the licence is that of everything here. */
#include "redirect.h"
#include "socket.h"

SECTION("license") char licence[] = "Apache-2.0";
