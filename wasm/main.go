//go:build js

// Command wasm is the provider in a browser tab: the tensor engine and a provider's side of a
// run, in a dedicated worker. The worker's shell (worker.js) provides the object ravnest with
// the settings and functions for reaching the page. The page's half is tab.js.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall/js"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/hours"
	lender "github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// version is set by the release build.
var version = "dev"

// settings are the user's choices.
type settings struct {
	Host    string `json:"host"`
	Token   string `json:"token"`
	Name    string `json:"name"`
	Threads int    `json:"threads"`
	RAM     int64  `json:"ram"` // bytes to lend
	// Up and Down are the most Mbit/s that it sends and receives; 0: no limit.
	Up   float64 `json:"up"`
	Down float64 `json:"down"`
	// Hours are those of the day in which it may be lent; "": the whole day.
	Hours string `json:"hours"`
	// Key is the browser's public key; "": it keeps none.
	Key string `json:"key"`
}

// ending tells the page how the tab's part ended.
type ending struct {
	Code string `json:"code"` // "" if all went well
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// errOutdated is returned if the host's build is not the page's: an older engine may not give
// the same bits.
var errOutdated = errors.New("this host has been updated since the page was loaded")

// errStopped says that the user stopped the tab.
var errStopped = errors.New("stopped by the user of this tab")

func main() {
	shell := js.Global().Get("ravnest")
	emit := func(kind string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // our own types
		}
		shell.Call("emit", kind, string(b))
	}
	var set settings
	err := json.Unmarshal([]byte(shell.Get("settings").String()), &set)
	if err == nil {
		ctx, stop := context.WithCancelCause(context.Background())
		t := newTurns(shell)
		atOnce := make(chan struct{})
		leave := sync.OnceFunc(func() { close(atOnce) })
		shell.Set("command", js.FuncOf(func(_ js.Value, args []js.Value) any {
			switch args[0].String() {
			case "stop":
				t.resume()
				stop(errStopped)
			case "leave":
				t.resume()
				leave()
			case "pause":
				t.pause()
			case "resume":
				t.resume()
			}
			return nil
		}))
		var id client.Identity
		if set.Key != "" {
			id = &identity{shell, set.Key}
		}
		err = lend(ctx, set, id, t, atOnce, emit)
	}
	emit("ended", explain(err))
}

func lend(ctx context.Context, set settings, id client.Identity, t *turns, atOnce <-chan struct{}, emit func(string, any)) error {
	limit, err := throttle.New(1e6*set.Up, 1e6*set.Down)
	if err != nil {
		return err
	}
	var day hours.Hours
	if set.Hours != "" {
		if day, err = hours.Parse(set.Hours); err != nil {
			return err
		}
	}
	team := kernel.NewTeam(min(set.Threads, kernel.Cores()))
	defer team.Close()
	collector := lender.Collector(set.RAM)
	began := time.Now()
	return lender.Lend(ctx, lender.Config{
		Host: set.Host, Token: set.Token, Name: set.Name, Agent: "ravnest-tab/" + version, Platform: "js/wasm",
		Loopback: loopback(set.Host), Limit: limit,
		May:      func() (string, bool) { return day.May(time.Now()) },
		Identity: id, Pass: func(token string) { emit("pass", token) },
		Team: team, RAM: set.RAM, AtOnce: atOnce, Between: t.between, RSS: t.memory, Check: t.current,
		// A tab belongs to its page's host: when the host says goodbye, the tab is done. If the
		// connection is lost, it tries to join again.
		Rules: machine.Rules{Wait: -1},
		Now:   func() time.Duration { return time.Since(began) },
		Event: func(format string, a ...any) { emit("log", fmt.Sprintf(format, a...)) },
		Watch: func(u provider.Update) {
			collector(u)
			emit("update", u)
		},
		Joined: func(name string, b provider.Bench) { emit("joined", map[string]any{"name": name, "gflops": b.GEMM}) },
	})
}

// loopback reports whether the page's host is this machine.
func loopback(host string) bool {
	u, err := client.ParseURL(host)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// explain turns an error into an ending for the page.
func explain(err error) ending {
	var pe *proto.Error
	switch {
	case errors.Is(err, errOutdated):
		return ending{Code: "version", Text: errOutdated.Error(), Hint: "reload the page"}
	case err == nil || errors.Is(err, errStopped):
		return ending{Text: "stopped"}
	case errors.As(err, &pe):
		return ending{Code: string(pe.Code), Text: pe.Message, Hint: pe.Hint}
	case errors.Is(err, client.ErrGoodbye):
		_, why, _ := strings.Cut(err.Error(), client.ErrGoodbye.Error()+": ")
		return ending{Text: why}
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrLost):
		return ending{Code: "host", Text: err.Error()}
	case errors.Is(err, provider.ErrMemory):
		return ending{Code: "memory", Text: err.Error(), Hint: "allow this tab more memory and start again"}
	case errors.Is(err, transport.ErrPeerGone):
		return ending{Code: "peer", Text: err.Error()}
	}
	return ending{Code: "failed", Text: err.Error()}
}
