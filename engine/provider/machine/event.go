// What goes into a Machine and what comes out.

package machine

import (
	"encoding/json"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Event is one of the events below.
type Event interface{ event() }

// The events of the host's side.
type (
	// Start is the first event.
	Start struct{}
	// Joined says that a host has welcomed this provider.
	Joined struct{}
	// JoinFailed says that Join has not led to that. Again: it may the next time.
	JoinFailed struct {
		Why   string
		Again bool
	}
	// Lost says that the session with the host is over.
	Lost struct {
		Why     string
		Goodbye bool // the host ended it on purpose
		Again   bool // joining again may help
	}
	// Heard is a message of the host.
	Heard struct{ Msg proto.Message }
)

// The events of an attempt. What is of another run than the current one is dropped.
type (
	// Fetched says how far the downloads are, in bytes.
	Fetched struct {
		Run        string
		Have, Want int64
	}
	// Prepared says that everything has been fetched: connecting begins.
	Prepared struct{ Run string }
	// Linked says that the link to a peer is up.
	Linked struct{ Run, Peer string }
	// Compiled says that all links are up and the stage can start; it stays within Peak bytes.
	Compiled struct {
		Run  string
		Peak int64
	}
	// Saving says that a save begins or has ended.
	Saving struct {
		Run    string
		Begins bool
	}
	// Ended says that nothing computes for the run any more. Its links are still up.
	Ended struct {
		Run     string
		Outcome Outcome
		Step    int64 // done
		Why     string
		Kind    proto.Kind // with Failed
		Peer    string     // with proto.FailedPeer: its ID
	}
)

// The other events.
type (
	// Leave is the wish to go, by this side. The second one is AtOnce.
	Leave struct {
		Reason string
		AtOnce bool
	}
	// Tick is nothing but the time.
	Tick struct{}
)

func (Start) event()      {}
func (Joined) event()     {}
func (JoinFailed) event() {}
func (Lost) event()       {}
func (Heard) event()      {}
func (Fetched) event()    {}
func (Prepared) event()   {}
func (Linked) event()     {}
func (Compiled) event()   {}
func (Saving) event()     {}
func (Ended) event()      {}
func (Leave) event()      {}
func (Tick) event()       {}

// Action is one of the actions below.
type Action interface{ action() }

// The actions.
type (
	// Join asks for a session with the host; Joined or JoinFailed answers.
	Join struct{}
	// Send sends a message to the host.
	Send struct{ Msg proto.Message }
	// Begin starts an attempt. There is no other.
	Begin struct{ Assign *proto.Assign }
	// Deliver hands a peer's signal to the attempt.
	Deliver struct {
		Run  string          `json:"run"`
		Peer string          `json:"peer"`
		Body json.RawMessage `json:"body"`
	}
	// Train starts the training of an attempt that has said Compiled.
	Train struct{ Run string }
	// SetMark is the mark before the root's next update.
	SetMark struct {
		Run  string
		Mark order.Mark
	}
	// Cancel ends an attempt; Ended answers.
	Cancel struct {
		Run     string     `json:"run"`
		Outcome Outcome    `json:"outcome"`
		Why     string     `json:"why"`
		Kind    proto.Kind `json:"kind,omitempty"`
		Peer    string     `json:"peer,omitempty"`
	}
	// Unlink cuts the links of an attempt that has ended, after what was sent before it.
	Unlink struct{ Run string }
	// Tell is a line for the person.
	Tell struct{ Text string }
	// Show is where the provider stands; Have and Want are bytes of a download.
	Show struct {
		State      State
		Have, Want int64
		Text       string
	}
	// Quit ends the provider: it says goodbye with the reason Why, then ends what is left.
	Quit struct {
		Outcome Outcome
		Why     string
	}
)

func (Join) action()    {}
func (Send) action()    {}
func (Begin) action()   {}
func (Deliver) action() {}
func (Train) action()   {}
func (SetMark) action() {}
func (Cancel) action()  {}
func (Unlink) action()  {}
func (Tell) action()    {}
func (Show) action()    {}
func (Quit) action()    {}
