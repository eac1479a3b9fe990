//go:build unix || js

// The error of a disk quota, where there is one.

package native

import "syscall"

// errQuota is a full disk for one user.
var errQuota error = syscall.EDQUOT
