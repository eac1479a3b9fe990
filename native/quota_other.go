//go:build !unix && !js

// Without disk quotas only a full disk is left.

package native

import "syscall"

var errQuota error = syscall.ENOSPC
