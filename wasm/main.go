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
	"runtime/debug"
	"strings"
	"syscall/js"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/rtc"
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
}

// ending is how the tab's part ended, for the page.
type ending struct {
	Code string `json:"code"` // "" where all went well
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

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
		shell.Set("command", js.FuncOf(func(_ js.Value, args []js.Value) any {
			switch args[0].String() {
			case "stop":
				t.resume()
				stop(errStopped)
			case "pause":
				t.pause()
			case "resume":
				t.resume()
			}
			return nil
		}))
		err = lend(ctx, set, t, emit)
	}
	emit("ended", explain(err))
}

// dialer connects to peers over WebRTC.
type dialer struct{ ep *rtc.Endpoint }

func (d dialer) Dial(ctx context.Context, offer bool, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	return d.ep.Connect(ctx, offer, send, recv)
}

func lend(ctx context.Context, set settings, t *turns, emit func(string, any)) error {
	team := kernel.NewTeam(min(set.Threads, kernel.Cores()))
	defer team.Close()
	began := time.Now()
	now := func() time.Duration { return time.Since(began) }
	say := func(format string, a ...any) { emit("log", fmt.Sprintf(format, a...)) }

	emit("state", "benchmarking")
	opt := client.Options{Token: set.Token, Hello: proto.Hello{
		Name: set.Name, Agent: "ravnest-tab/" + version, Platform: "js/wasm",
		Class: kernel.Class(), RAM: set.RAM, Threads: team.Threads(),
	}}
	up, down, err := client.MeasureBandwidth(ctx, set.Host, opt)
	if err != nil {
		return err
	}
	b := provider.Benchmark(team, now)
	opt.Hello.Bench = proto.Bench{GEMM: b.GEMM, Conv: b.Conv, Up: up, Down: down}
	conn, err := client.Dial(ctx, set.Host, opt)
	if err != nil {
		return err
	}
	defer func() { conn.Close(proto.Text(reason(ctx))) }()
	say("joined as %s: %.1f GFLOP/s, %d MB lent, %d thread(s)", conn.Name(), b.GEMM, set.RAM/1e6, team.Threads())
	emit("joined", map[string]any{"name": conn.Name(), "gflops": b.GEMM})

	var ice []rtc.ICEServer
	for _, s := range conn.Welcome().ICE {
		ice = append(ice, rtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	ep, err := rtc.NewEndpoint(rtc.Config{ICE: ice})
	if err != nil {
		return err
	}
	defer ep.Close()
	return provider.Serve(ctx, provider.Config{
		Host: conn, Dialer: dialer{ep}, Team: team, RAM: set.RAM, Now: now, Event: say, Between: t.between,
		Watch: func(u provider.Update) { emit("update", u) },
		RSS:   t.memory,
	})
}

// reason is what a tab tells the host when it leaves.
func reason(ctx context.Context) string {
	if err := context.Cause(ctx); err != nil {
		return err.Error()
	}
	return "leaving"
}

// explain words an end for the page.
func explain(err error) ending {
	var pe *proto.Error
	switch {
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
