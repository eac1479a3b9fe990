//go:build js

package main

// The browser's key: identity.js keeps it and signs.

import (
	"context"
	"errors"
	"syscall/js"
)

// identity implements client.Identity.
type identity struct {
	shell js.Value
	key   string
}

func (i *identity) Key() string { return i.key }

// Sign implements client.Identity.
func (i *identity) Sign(ctx context.Context, message []byte) ([]byte, error) {
	data := js.Global().Get("Uint8Array").New(len(message))
	js.CopyBytesToJS(data, message)
	done := make(chan []byte, 1)
	// Released by its only call, which comes even after ctx's end.
	var tell js.Func
	tell = js.FuncOf(func(_ js.Value, args []js.Value) any {
		defer tell.Release()
		var sig []byte
		if args[0].Truthy() {
			sig = make([]byte, args[0].Get("length").Int())
			js.CopyBytesToGo(sig, args[0])
		}
		done <- sig
		return nil
	})
	i.shell.Call("sign", data, tell)
	select {
	case sig := <-done:
		if sig == nil {
			return nil, errors.New("the browser does not sign with its key")
		}
		return sig, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
