// The figures of a run for other tools: a table (metrics.csv) and TensorBoard's event files
// (runs/N).

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/format/tfevents"
	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/native/project"
)

// Validation is the outcome of a validation pass; Total is 0 where there are no answers to be
// right about.
type Validation struct {
	Epoch          int
	Step           int64 // batches done
	Correct, Total int64
	Loss           float64
	Metrics        []loss.Metric
}

// accuracy is in percent.
func (v Validation) accuracy() float64 { return 100 * float64(v.Correct) / float64(v.Total) }

// metrics writes both forms. A batch that is trained again, after a loss, takes back what
// follows it.
type metrics struct {
	table *lines
	names []string // of the columns that come after the fixed ones
	marks []int64  // of the table's last lines: see markOf
	file  spool    // TensorBoard's
	board *tfevents.Writer
	dir   string // of the event file
	last  int64  // step of the newest batch
}

// fixed are the table's first columns.
var fixed = []string{"step", "epoch", "loss", "lr", "val_loss", "val_accuracy"}

// openMetrics opens the files of a run that begins, or goes on from a step.
func openMetrics(p *project.Project, resume int64, now time.Time) (*metrics, error) {
	m := &metrics{last: resume - 1}
	f, err := loss.NewSum(p.Job, p.Graph.AnswerShapes(), 1)
	if err != nil {
		return nil, err
	}
	m.names = f.Names(p.Data.Val.Y())
	if err := p.Inside(project.MetricsFile); err != nil {
		return nil, err
	}
	path := filepath.Join(p.Dir, project.MetricsFile)
	if m.table, err = openLines(path); err != nil {
		return nil, err
	}
	if err := m.table.each(func(_, _ int64, line []byte) bool { m.note(markOf(line)); return true }); err != nil {
		return nil, errors.Join(err, m.table.close())
	}
	if m.table.n == 0 {
		m.table.add(strings.Join(append(append([]string{}, fixed...), m.names...), ","))
		m.note(-1)
	}
	return m, m.openBoard(p, resume, now)
}

// mark orders the table: by steps, and of a step its batch before the validation pass behind it.
func mark(step int64, val bool) int64 {
	if val {
		return 2*step + 1
	}
	return 2 * step
}

// markOf is the mark of a line of the table; -1 of the first, which has the names.
func markOf(line []byte) int64 {
	cells := bytes.SplitN(line, []byte(","), 4)
	step, err := strconv.ParseInt(string(cells[0]), 10, 64)
	if err != nil {
		return -1
	}
	return mark(step, len(cells) > 2 && len(cells[2]) == 0)
}

// note adds the mark of the table's last line.
func (m *metrics) note(mark int64) {
	m.marks = append(m.marks, mark)
	m.forget()
}

// forget drops the oldest steps, if there are many.
func (m *metrics) forget() {
	if len(m.marks) >= 2*m.table.least {
		m.marks = slices.Delete(m.marks, 0, len(m.marks)-m.table.least)
	}
}

// openBoard begins an event file: in the directory of the run that goes on, or in a new one.
func (m *metrics) openBoard(p *project.Project, resume int64, now time.Time) error {
	if err := p.Inside(project.RunsDir); err != nil {
		return err
	}
	runs := filepath.Join(p.Dir, project.RunsDir)
	n := 1
	for exists(filepath.Join(runs, strconv.Itoa(n))) {
		n++
	}
	if resume > 0 && n > 1 {
		n--
	}
	m.dir = filepath.Join(runs, strconv.Itoa(n))
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the event files: %w", err)
	}
	// TensorBoard reads files of a directory in the order of their names.
	var err error
	name := filepath.Join(m.dir, fmt.Sprintf("events.out.tfevents.%d.ravnest.%d", now.Unix(), os.Getpid()))
	if m.file.f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return fmt.Errorf("opening the event file: %w", err)
	}
	if m.file.at, err = m.file.f.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("opening the event file: %w", err)
	}
	if m.board, err = tfevents.NewWriter(&m.file, now); err == nil && resume > 0 {
		err = m.board.Restart(now, resume)
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// back takes back what is of step and later.
func (m *metrics) back(now time.Time, step int64) error {
	i, from := len(m.marks), mark(step, false)
	for i > 0 && m.marks[i-1] >= from {
		i--
	}
	keep := m.table.n - int64(len(m.marks)-i)
	if i == 0 && keep > 0 { // further back than what is known
		if err := m.table.each(func(k, _ int64, line []byte) bool {
			keep = k
			return markOf(line) < from
		}); err != nil {
			return err
		}
	}
	m.table.cut(keep)
	m.marks = m.marks[:i]
	return m.board.Restart(now, step)
}

// undo takes back what is behind a step.
func (m *metrics) undo(now time.Time, step int64) error {
	m.last = step - 1
	return m.back(now, step+1)
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }

// loss notes the loss of batch step, which was trained at a learning rate.
func (m *metrics) loss(now time.Time, epoch int, step int64, loss, lr float64) error {
	var back error
	if step <= m.last {
		back = m.back(now, step+1)
	}
	m.last = step
	m.row(mark(step+1, false), step+1, epoch, number(loss), number(lr))
	return errors.Join(back, m.board.Write(now, step+1, tfevents.Scalar{Tag: "loss/train", Value: float32(loss)}, tfevents.Scalar{Tag: "learning_rate", Value: float32(lr)}))
}

// val notes a validation pass.
func (m *metrics) val(now time.Time, v Validation) error {
	points := []tfevents.Scalar{{Tag: "loss/validation", Value: float32(v.Loss)}}
	cells := []string{"", "", number(v.Loss), ""}
	if v.Total > 0 {
		cells[3] = number(v.accuracy())
		points = append(points, tfevents.Scalar{Tag: "accuracy/validation", Value: float32(v.accuracy())})
	}
	for _, name := range m.names {
		cell := ""
		for _, x := range v.Metrics {
			if x.Name == name {
				cell = number(x.Value)
				points = append(points, tfevents.Scalar{Tag: name + "/validation", Value: float32(x.Value)})
			}
		}
		cells = append(cells, cell)
	}
	m.row(mark(v.Step, true), v.Step, v.Epoch, cells...)
	return m.board.Write(now, v.Step, points...)
}

// row puts a line into the table, in place of one with the same mark; cells that are missing stay
// empty. A pass may be told later than the losses of batches behind it, and earlier than that of the
// batch before it, for which another cluster is waited.
func (m *metrics) row(mark, step int64, epoch int, cells ...string) {
	cells = append([]string{strconv.FormatInt(step, 10), strconv.Itoa(epoch + 1)}, cells...)
	for len(cells) < len(fixed)+len(m.names) {
		cells = append(cells, "")
	}
	i, over := slices.BinarySearch(m.marks, mark)
	at := m.table.n - int64(len(m.marks)-i)
	if over {
		m.table.insert(at, 1, strings.Join(cells, ","))
		return
	}
	m.table.insert(at, 0, strings.Join(cells, ","))
	m.marks = slices.Insert(m.marks, i, mark)
	m.forget()
}

func (m *metrics) flush() error { return errors.Join(m.table.flush(), m.file.flush()) }

func (m *metrics) close() error { return errors.Join(m.table.close(), m.file.close()) }
