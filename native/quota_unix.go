//go:build unix || js

// The error of an exceeded disk quota.

package native

import "syscall"

// errQuota says that a user's disk quota is exceeded.
var errQuota error = syscall.EDQUOT
