// Tokens as people give them.

package native

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/ravnest/ravnest/signaling/proto"
)

// TokenFile reads a token from the first line of a file; - is standard input.
func TokenFile(path string) (string, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 2*proto.MaxToken))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	token := strings.TrimSuffix(line, "\r")
	if err := proto.CheckToken(token); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if token == "" {
		return "", fmt.Errorf("%s has no token in its first line", path)
	}
	return token, nil
}

// Link splits a link that a requester has sent, https://host/#token=TOKEN, into the host's
// address and the token. An address without one is left as it is.
func Link(s string) (host, token string) {
	host, raw, ok := strings.Cut(s, "#token=")
	if !ok {
		return s, ""
	}
	if plain, err := url.PathUnescape(raw); err == nil {
		raw = plain
	}
	return host, raw
}
