//go:build js

// Command wasm is the provider of a browser tab: the tensor engine and a provider's side
// of a run, in a dedicated worker. The worker's shell (worker.js) offers the object
// ravnest with the settings and the way to the page; the page's half is tab.js.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
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

// settings are what the person chose.
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
}

// ending is how the tab's part ended, for the page.
type ending struct {
	Code string `json:"code"` // "" where all went well
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// errOutdated is returned where the host has another build than the page: an older engine
// may not give the same bits.
var errOutdated = errors.New("this host has been updated since the page was loaded")

// errStopped is the end that the person asked for.
var errStopped = errors.New("stopped by the person at this tab")

func main() {
	debug.SetGCPercent(50) // as native providers: what is needed is allocated once
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
		err = lend(ctx, set, t, atOnce, emit)
	}
	emit("ended", explain(err))
}

func lend(ctx context.Context, set settings, t *turns, atOnce <-chan struct{}, emit func(string, any)) error {
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
	began := time.Now()
	return lender.Lend(ctx, lender.Config{
		Host: set.Host, Token: set.Token, Name: set.Name, Agent: "ravnest-tab/" + version, Platform: "js/wasm",
		Loopback: loopback(set.Host), Limit: limit,
		May:  func() (string, bool) { return day.May(time.Now()) },
		Team: team, RAM: set.RAM, AtOnce: atOnce, Between: t.between, RSS: t.memory, Check: t.current,
		// A tab is a guest of its page's host: when that says goodbye, it is over. A
		// connection that was lost is looked for.
		Rules:  machine.Rules{Wait: -1},
		Now:    func() time.Duration { return time.Since(began) },
		Event:  func(format string, a ...any) { emit("log", fmt.Sprintf(format, a...)) },
		Watch:  func(u provider.Update) { emit("update", u) },
		Joined: func(name string, b provider.Bench) { emit("joined", map[string]any{"name": name, "gflops": b.GEMM}) },
	})
}

// loopback tells whether the page's host is this machine.
func loopback(host string) bool {
	u, err := client.ParseURL(host)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// explain words an end for the page.
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
