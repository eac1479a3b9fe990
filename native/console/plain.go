// Text of others on a terminal.

package console

import (
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
