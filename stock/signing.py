# SPDX-License-Identifier: GPL-2.0
"""Whether the running kernel would load modules that are signed with a key.

With Secure Boot, or module.sig_enforce=1, it refuses all others. KVM replaced by modules that are
refused would be no KVM at all.
"""

import pathlib
import re

# In a certificate: extension 2.5.29.14, an octet string in an octet string.
KEY_IDENTIFIER = re.compile(rb"\x06\x03\x55\x1d\x0e\x04\x16\x04\x14(.{20})", re.S)


# Of the firmware's variable SecureBoot the last byte, behind four of attributes, is 1 if it is on.
SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def enforced(sys=pathlib.Path("/sys")):
    """As the kernel was told, or because it is locked down; if it does not say so, as it is with
    Secure Boot."""
    def read(path):
        return path.read_bytes() if path.exists() else b""
    lockdown = read(sys / "kernel/security/lockdown")
    locked = re.search(rb"\[(integrity|confidentiality)\]", lockdown) if lockdown else read(sys / SECURE_BOOT)[4:] == b"\1"
    return read(sys / "module/module/parameters/sig_enforce").strip() == b"Y" or bool(locked)


def enrolled(certificate, keys):
    """Whether the key of a certificate, its bytes, is in `keys`, the text of /proc/keys. None: it is not told,
    as the certificate has no identifier, or this process may not see the kernel's own keys."""
    identifier = KEY_IDENTIFIER.search(certificate)
    if certificate and identifier is None or ": X509." not in keys:
        return None
    return identifier is not None and f": {identifier[1].hex()}: X509." in keys


def refused(path, sys=pathlib.Path("/sys"), keys=pathlib.Path("/proc/keys")):
    """What to do so that what is signed with the key of a certificate's file is taken, if it is not."""
    if not enforced(sys):
        return
    certificate = path.read_bytes() if path.exists() else b""
    if enrolled(certificate, keys.read_text(errors="replace")) is False:
        made = "" if certificate else "sudo dkms generate_mok, "
        yield (f"the running kernel takes signed modules only, and DKMS' key is not enrolled: {made}"
               f"sudo mokutil --import {path}, reboot and confirm it, then sudo dkms autoinstall")
