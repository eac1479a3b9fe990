//go:build !unix && !windows

package native

import (
	"errors"
	"fmt"
)

// Nice is not known here.
func Nice(int) error { return fmt.Errorf("setting the priority: %w", errors.ErrUnsupported) }
