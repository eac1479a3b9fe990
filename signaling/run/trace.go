package run

// A trace is the list of events that a machine was given, as JSON lines. The actions
// need not be recorded, since the same events give the same actions.

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// ErrTrace is wrapped by errors about a line of a trace.
var ErrTrace = errors.New("not a valid trace of a run")

// line is an event of a trace. The first line has the machine's settings instead.
type line struct {
	At    time.Time       `json:"at"`
	Event string          `json:"event"`
	Body  json.RawMessage `json:"body,omitempty"`
	Err   string          `json:"err,omitempty"` // the event's error
	Msg   json.RawMessage `json:"msg,omitempty"` // the event's message
}

const settings = "settings"

// Trace records the events that a machine is given. It is not safe for concurrent use.
type Trace struct {
	w   *bufio.Writer
	err error
}

// NewTrace begins the trace of a machine with these settings.
func NewTrace(w io.Writer, now time.Time, set Settings) *Trace {
	t := &Trace{w: bufio.NewWriterSize(w, 1<<16)}
	body, err := json.Marshal(set)
	t.write(line{At: now, Event: settings, Body: body}, err)
	return t
}

// Event records the next event, without join tokens. After an error, which Flush
// returns, nothing more is written.
func (t *Trace) Event(now time.Time, ev Event) {
	if t.err != nil {
		return
	}
	l := line{At: now}
	fail := func(err error) error {
		if err != nil {
			l.Err = err.Error()
		}
		return nil
	}
	var err error
	switch e := ev.(type) {
	case Join:
		e.Hello.Token = ""
		ev = e
	case Refusal:
		e.Err = fail(e.Err)
		ev = e
	case Violation:
		e.Err = fail(e.Err)
		ev = e
	case Plan:
		e.Err = fail(e.Err)
		ev = e
	case Commit:
		e.Err = fail(e.Err)
		ev = e
	case Audited:
		e.Err = fail(e.Err)
		ev = e
	case Stretched:
		e.Err = fail(e.Err)
		ev = e
	case StoreFault:
		e.Err = fail(e.Err)
		ev = e
	case Message:
		l.Msg, err = proto.Encode(e.Msg)
		e.Msg = nil
		ev = e
	}
	l.Event = eventName(ev)
	if _, tick := ev.(Tick); !tick && err == nil {
		l.Body, err = json.Marshal(ev)
	}
	t.write(l, err)
}

func (t *Trace) write(l line, err error) {
	var b []byte
	if err == nil {
		b, err = json.Marshal(l)
	}
	if err == nil {
		_, err = t.w.Write(append(b, '\n'))
	}
	t.err = err
}

// Flush writes out everything recorded so far, and returns the first error.
func (t *Trace) Flush() error {
	if t.err == nil {
		t.err = t.w.Flush()
	}
	return t.err
}

// eventName returns the name of the event's type in a trace.
func eventName(ev Event) string {
	switch ev.(type) {
	case Join:
		return "join"
	case Refusal:
		return "refusal"
	case Leave:
		return "leave"
	case Away:
		return "away"
	case Back:
		return "back"
	case Message:
		return "message"
	case Violation:
		return "violation"
	case UploadRequest:
		return "upload request"
	case Upload:
		return "upload"
	case UploadEnd:
		return "upload end"
	case Tick:
		return "tick"
	case Plan:
		return "plan"
	case Worth:
		return "worth"
	case Commit:
		return "commit"
	case Audited:
		return "audited"
	case Stretched:
		return "stretched"
	case Submit:
		return "submit"
	case StopRequest:
		return "stop"
	case StoreFault:
		return "store fault"
	case Shutdown:
		return "shutdown"
	case Deposed:
		return "deposed"
	}
	return ""
}

// event decodes the line's event.
func (l line) event() (Event, error) {
	var err error
	if l.Err != "" {
		err = errors.New(l.Err)
	}
	switch l.Event {
	case "join":
		return body[Join](l)
	case "refusal":
		e, bad := body[Refusal](l)
		e.Err = err
		return e, bad
	case "leave":
		return body[Leave](l)
	case "away":
		return body[Away](l)
	case "back":
		return body[Back](l)
	case "message":
		e, bad := body[Message](l)
		if bad == nil {
			e.Msg, bad = proto.Decode(l.Msg)
		}
		return e, bad
	case "violation":
		e, bad := body[Violation](l)
		if e.Err = err; bad == nil && err == nil {
			bad = errors.New("a violation without an error")
		}
		return e, bad
	case "upload request":
		return body[UploadRequest](l)
	case "upload":
		return body[Upload](l)
	case "upload end":
		return body[UploadEnd](l)
	case "tick":
		return Tick{}, nil
	case "plan":
		e, bad := body[Plan](l)
		e.Err = err
		return e, bad
	case "worth":
		return body[Worth](l)
	case "commit":
		e, bad := body[Commit](l)
		e.Err = err
		return e, bad
	case "audited":
		e, bad := body[Audited](l)
		e.Err = err
		return e, bad
	case "stretched":
		e, bad := body[Stretched](l)
		e.Err = err
		return e, bad
	case "submit":
		return body[Submit](l)
	case "stop":
		return body[StopRequest](l)
	case "store fault":
		e, bad := body[StoreFault](l)
		if e.Err = err; bad == nil && err == nil {
			bad = errors.New("a store fault without an error")
		}
		return e, bad
	case "shutdown":
		return body[Shutdown](l)
	case "deposed":
		e, bad := body[Deposed](l)
		if bad == nil && e.Err == nil {
			bad = errors.New("a deposed host without an error")
		}
		return e, bad
	}
	return nil, fmt.Errorf("unknown event %.32q", l.Event)
}

func body[E Event](l line) (e E, err error) {
	if err := json.Unmarshal(l.Body, &e); err != nil {
		return e, fmt.Errorf("%s: %w", l.Event, err)
	}
	return e, nil
}

// maxLine bounds the length of a line in bytes. Submitted jobs and the plans of large
// pools are the longest.
const maxLine = 64 << 20

// Replay gives all events of a trace to a new machine and returns that machine. each, if
// not nil, is called after every event with the actions that followed. Errors wrap
// ErrTrace and name the line; the machine returned then is that of the lines before it.
func Replay(r io.Reader, each func(now time.Time, ev Event, acts []Action)) (*Machine, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	var m *Machine
	n := 0
	bad := func(err error) error { return fmt.Errorf("%w: line %d: %w", ErrTrace, n, err) }
	for in.Scan() {
		n++
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return m, bad(err)
		}
		if m == nil {
			var set Settings
			if l.Event != settings {
				return nil, bad(errors.New("it does not begin with a host's settings"))
			}
			if err := json.Unmarshal(l.Body, &set); err != nil {
				return nil, bad(err)
			}
			m = New(set)
			continue
		}
		ev, err := l.event()
		if err != nil {
			return m, bad(err)
		}
		acts := m.Step(l.At, ev)
		if each != nil {
			each(l.At, ev, acts)
		}
	}
	if err := in.Err(); err != nil {
		n++
		return m, bad(err)
	}
	if m == nil {
		return nil, fmt.Errorf("%w: it is empty", ErrTrace)
	}
	return m, nil
}
