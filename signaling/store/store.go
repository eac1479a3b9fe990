// Package store keeps what the signaling host must remember of a run: trained
// stages, the run's record and metrics. It has two small implementations of the interface
// that package server declares, one in memory and one in a directory. A JetStream object
// store and stream would fit the same five methods.
//
// Objects are named by slash-separated paths ([CheckName]). An object is replaced as a
// whole or not at all: a Put that fails, for whatever reason, leaves the earlier object in
// place. Lines are appended to logs, which have a name space of their own.
package store

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/ravnest/ravnest/signaling/proto"
)

// CheckName returns an error unless name can name an object: a slash-separated path of at
// most 8 components, each a valid proto name (so no ".." and no leading dot).
func CheckName(name string) error {
	parts := strings.Split(name, "/")
	if len(parts) > 8 {
		return fmt.Errorf("object name %.80q has %d components, the limit is 8: %w", name, len(parts), fs.ErrInvalid)
	}
	for _, p := range parts {
		if err := proto.CheckName(p); err != nil {
			return fmt.Errorf("object name %.80q: %w: %w", name, err, fs.ErrInvalid)
		}
	}
	return nil
}
