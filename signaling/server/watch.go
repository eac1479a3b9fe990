package server

// The status of a run for dashboards, once or as a stream.

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
)

const (
	watchEvery = time.Second            // default interval without news
	watchPause = 100 * time.Millisecond // shortest interval
	// maxWatching bounds the dashboards, each of which occupies the loop once a second.
	maxWatching = 64
)

// View is a line of /v1/watch: the run as it stands, and what has happened since the line before.
type View struct {
	Status  Status  `json:"status"`
	History History `json:"history"`

	Relay *relay.Stats `json:"relay,omitempty"` // nil: the host has no relay
}

// view returns the current View, with the notes later than after. news is closed when
// there are more.
func (s *Server) view(after int64) (v View, news <-chan struct{}) {
	s.call(func(now time.Time) {
		v = View{Status: s.statusNow(now), History: s.past.after(after)}
		if s.past.news == nil {
			s.past.news = make(chan struct{})
		}
		news = s.past.news
	})
	v.Relay = s.Relayed()
	return v, news
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(struct {
		Status
		Relay *relay.Stats `json:"relay,omitempty"`
	}{s.Status(), s.Relayed()})
}

// watch answers /v1/watch?after=TIME with a View every second and whenever something
// happens, so that a dashboard sees the end of a run even if the host exits then.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	if s.watching.Add(1) > maxWatching {
		s.watching.Add(-1)
		httpError(w, http.StatusServiceUnavailable, &proto.Error{Code: proto.Full, Message: "too many dashboards are open", Hint: "close one"})
		return
	}
	defer s.watching.Add(-1)
	var after int64
	if v := r.URL.Query().Get("after"); v != "" {
		var err error
		if after, err = strconv.ParseInt(v, 10, 64); err != nil {
			httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: "the parameter after must be the time of a note"})
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // otherwise nginx buffers the lines
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for last := false; ; {
		v, news := s.view(after)
		if enc.Encode(v) != nil || rc.Flush() != nil || last {
			return
		}
		if n := len(v.History.Notes); n > 0 {
			after = v.History.Notes[n-1].At
		}
		pause, tick := time.After(watchPause), time.After(s.watchEvery)
		for pause != nil || news != nil {
			select {
			case <-pause:
				pause = nil
			case <-news:
				news = nil
			case <-tick:
				news = nil
			case <-s.door.Done():
				last, pause, news = true, nil, nil
			case <-r.Context().Done():
				return
			}
		}
	}
}
