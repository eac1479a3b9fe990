// Text of others on a terminal.

package console

import (
	"fmt"
	"strings"
	"unicode"
)

// Plain returns s as a terminal shows it: characters that move its cursor, change its colours or the
// direction of writing become spaces. Line ends and tabs stay. What files, archives and other
// machines call things reaches the terminal in errors.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\u200c' || r == '\u200d': // joiners are needed in some scripts
			return r
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return ' '
		}
		return r
	}, s)
}

// Cell is Plain for what is to stay in one cell of one line.
func Cell(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, Plain(s))
}

// FlagError rewrites an error of package flag so that flags have two dashes, as they are written.
func FlagError(err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return fmt.Errorf("unknown flag --%s", strings.TrimPrefix(name, "-"))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return fmt.Errorf("--%s needs a value", strings.TrimPrefix(name, "-"))
	}
	if before, after, ok := strings.Cut(text, " for flag -"); ok {
		return fmt.Errorf("%s for flag --%s", before, strings.TrimPrefix(after, "-"))
	}
	return err
}
