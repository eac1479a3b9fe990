// Messages as JSON, for programs that collect logs.

package native

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// JSONLog returns a writer that turns every line into a record of slog's JSON handler: time,
// level, msg, and program. Warnings and errors are told from the rest by how they begin.
func JSONLog(w io.Writer, program string) io.Writer {
	return &jsonLog{log: slog.New(slog.NewJSONHandler(w, nil)).With("program", program)}
}

type jsonLog struct {
	mu   sync.Mutex
	log  *slog.Logger
	rest []byte // a line without its end
}

// maxLine bounds a line that does not end.
const maxLine = 64 << 10

func (j *jsonLog) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rest = append(j.rest, b...)
	for {
		line, rest, ok := bytes.Cut(j.rest, []byte("\n"))
		if !ok && len(j.rest) < maxLine {
			return len(b), nil
		}
		if !ok {
			line, rest = j.rest, nil
		}
		j.record(string(line))
		j.rest = append(j.rest[:0], rest...)
	}
}

func (j *jsonLog) record(line string) {
	line = strings.TrimSpace(line)
	if line == "" {
		return
	}
	level := slog.LevelInfo
	for prefix, l := range map[string]slog.Level{"WARNING: ": slog.LevelWarn, "ERROR: ": slog.LevelError} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = rest, l
		}
	}
	j.log.Log(context.Background(), level, line)
}
