//go:build !windows && (!unix || solaris || aix)

package native

import (
	"errors"
	"os"
)

func lockFile(*os.File) error { return errors.ErrUnsupported }
