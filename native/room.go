package native

import (
	"errors"
	"fmt"
)

// ErrMemory is wrapped by errors about this machine having too little memory.
var ErrMemory = errors.New("not enough memory")

// Room returns an error if need more bytes, for what, exceed what this process can get: the
// machine's free memory and the limits of its control groups and shell.
func Room(need int64, what string) error {
	have, err := AvailableRAM()
	if err != nil || need <= have { // an error means that the limit is unknown
		return nil
	}
	return fmt.Errorf("%w: %s needs %s, but only %s are available", ErrMemory, what, FormatSize(need), FormatSize(have))
}
