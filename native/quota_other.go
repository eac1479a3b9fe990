//go:build !unix && !js

// Systems without disk quotas.

package native

import "syscall"

var errQuota error = syscall.ENOSPC
