# SPDX-License-Identifier: GPL-2.0
"""Whether the running kernel would load modules that are signed with a key.

With Secure Boot, or module.sig_enforce=1, it refuses all others. KVM replaced by modules that are
refused would be no KVM at all.
"""

import pathlib
import re

# In a certificate: extension 2.5.29.14, an octet string in an octet string.
KEY_IDENTIFIER = re.compile(rb"\x06\x03\x55\x1d\x0e\x04\x16\x04\x14(.{20})", re.S)


def enforced(sys=pathlib.Path("/sys")):
    """As the kernel was told, or because it is locked down."""
    def read(path):
        return path.read_text() if path.exists() else ""
    return (read(sys / "module/module/parameters/sig_enforce").strip() == "Y"
            or re.search(r"\[(integrity|confidentiality)\]", read(sys / "kernel/security/lockdown")) is not None)


def enrolled(certificate, keys):
    """Whether the key of a certificate, its bytes, is in `keys`, the text of /proc/keys."""
    identifier = KEY_IDENTIFIER.search(certificate)
    return identifier is not None and re.search(rf": {identifier[1].hex()}: X509\.", keys) is not None


def refused(path, sys=pathlib.Path("/sys"), keys=pathlib.Path("/proc/keys")):
    """What to do so that what is signed with the key of a certificate's file is taken, if it is not."""
    if not enforced(sys):
        return
    certificate = path.read_bytes() if path.exists() else b""
    if not enrolled(certificate, keys.read_text()):
        made = "" if certificate else "sudo dkms generate_mok, "
        yield (f"the running kernel takes signed modules only, and DKMS' key is not enrolled: {made}"
               f"sudo mokutil --import {path}, reboot and confirm it, then sudo dkms autoinstall")
