package project

import (
	"crypto/sha256"
	"encoding/hex"
)

// RunID turns the job's name, which may contain any characters, into an identifier for messages,
// files and addresses. Different names give different identifiers.
func (p *Project) RunID() string { return runID(p.Job.Name) }

func runID(name string) string {
	const most = 32
	id := []byte(name)
	for i, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.' && i > 0:
		default:
			id[i] = '_'
		}
	}
	if string(id) == name && len(id) <= most && name != "" {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return string(id[:min(len(id), most)]) + "-" + hex.EncodeToString(sum[:4])
}
