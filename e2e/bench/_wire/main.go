// Command wire measures what a byte costs and how fast it travels over a link of ours, over TLS
// and over QUIC (quic-go), on the same paths in one run: on loopback, and, as root, over
// networks that are slow, far and lose packets.
//
//	wire [-bytes N] [-runs N] [-only loopback,lan,...] [-over link,tls,quic] [-message N] [-json]
//
// A network is emulated between two TUN devices in namespaces of their own: packets wait in a
// queue for their turn, travel for the delay, and are lost by chance. Both ends are processes,
// so that the processor time of each is its own.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// network is a path. Rates are in bytes per second, of each direction.
type network struct {
	Name  string
	Rate  float64
	Delay time.Duration // one way
	Queue int           // bytes
	Loss  float64
	Share int // of the bytes that are sent: 1 of so many
}

var networks = []network{
	{Name: "loopback", Share: 1},
	{Name: "lan", Rate: 125e6, Delay: 250 * time.Microsecond, Queue: 1 << 20, Share: 1},
	{Name: "lan-lossy", Rate: 125e6, Delay: 250 * time.Microsecond, Queue: 1 << 20, Loss: 0.02, Share: 1},
	{Name: "far", Rate: 12.5e6, Delay: 10 * time.Millisecond, Queue: 1 << 18, Share: 2},
	{Name: "far-lossy", Rate: 12.5e6, Delay: 10 * time.Millisecond, Queue: 1 << 18, Loss: 0.02, Share: 8},
	{Name: "thin", Rate: .25e6, Delay: 20 * time.Millisecond, Queue: 1 << 17, Share: 50},
	{Name: "thin-lossy", Rate: .25e6, Delay: 20 * time.Millisecond, Queue: 1 << 17, Loss: 0.02, Share: 50},
}

// result is one flow.
type result struct {
	Network   string  `json:"network"`
	Transport string  `json:"transport"`
	Bytes     int     `json:"bytes"`
	Seconds   float64 `json:"s"`
	CPU       float64 `json:"cpu_ns_per_byte"` // of both ends, the system's work for them included
	First     float64 `json:"first_ms"`        // until a single message has come and was answered; links only
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "end" {
		if err := end(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "wire:", err)
			os.Exit(1)
		}
		return
	}
	bytes := flag.Int("bytes", 50_000_000, "bytes in one direction; slow networks get a part of them")
	runs := flag.Int("runs", 3, "how often; the median counts")
	only := flag.String("only", "", "names of networks, with commas; all by default")
	over := flag.String("over", strings.Join(transports, ","), "transports")
	message := flag.Int("message", 256<<10, "bytes of a link's messages and of the writes of others")
	asJSON := flag.Bool("json", false, "a line of JSON for each result")
	flag.Parse()
	if err := run(*bytes, *runs, *message, *only, strings.Split(*over, ","), *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "wire:", err)
		os.Exit(1)
	}
}

func run(bytes, runs, message int, only string, transports []string, asJSON bool) error {
	if !asJSON {
		fmt.Printf("%-12s %-6s %10s %9s %10s %9s\n", "network", "over", "seconds", "MB/s", "cpu ns/B", "first ms")
	}
	for _, n := range networks {
		if only != "" && !slices.Contains(strings.Split(only, ","), n.Name) {
			continue
		}
		if n.Rate > 0 && os.Getuid() != 0 {
			fmt.Fprintf(os.Stderr, "left out: %s needs root, for network namespaces\n", n.Name)
			continue
		}
		var all [][]result
		for range runs { // in turn, so that what disturbs one disturbs all
			var rs []result
			for _, over := range transports {
				r, err := measure(n, over, message, bytes/n.Share)
				if err != nil {
					return fmt.Errorf("%s over %s: %w", n.Name, over, err)
				}
				rs = append(rs, r)
			}
			all = append(all, rs)
		}
		for i := range transports {
			slices.SortFunc(all, func(a, b []result) int { return int(1e6 * (a[i].Seconds - b[i].Seconds)) })
			r := all[len(all)/2][i]
			slices.SortFunc(all, func(a, b []result) int { return int(1e3 * (a[i].CPU - b[i].CPU)) })
			r.CPU = all[len(all)/2][i].CPU
			slices.SortFunc(all, func(a, b []result) int { return cmp.Compare(a[i].First, b[i].First) })
			r.First = all[len(all)/2][i].First
			if asJSON {
				b, _ := json.Marshal(r)
				fmt.Println(string(b))
			} else {
				fmt.Printf("%-12s %-6s %10.2f %9.2f %10.1f %9.2f\n", r.Network, r.Transport, r.Seconds, float64(r.Bytes)/1e6/r.Seconds, r.CPU, r.First)
			}
		}
	}
	return nil
}

// measure sends bytes over a network.
func measure(n network, over string, message, bytes int) (result, error) {
	r := result{Network: n.Name, Transport: over, Bytes: bytes}
	prefix := [2][]string{}
	at := "127.0.0.1"
	if n.Rate > 0 {
		e, err := emulate(n)
		if err != nil {
			return r, err
		}
		defer e.close()
		for k := range prefix {
			prefix[k] = []string{"ip", "netns", "exec", e.names[k]}
		}
		at = address(1)
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	var cmds [2]*exec.Cmd
	var ins [2]io.WriteCloser
	var outs [2]io.ReadCloser
	for k, role := range []string{"send", "receive"} {
		args := append(prefix[k], self, "end", "-role", role, "-over", over, "-at", at, "-bytes", fmt.Sprint(bytes), "-message", fmt.Sprint(message))
		c := exec.Command(args[0], args[1:]...)
		c.Stderr = os.Stderr
		if ins[k], err = c.StdinPipe(); err != nil {
			return r, err
		}
		if outs[k], err = c.StdoutPipe(); err != nil {
			return r, err
		}
		if err := c.Start(); err != nil {
			return r, err
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
		cmds[k] = c
	}
	// What one end says goes to the other, but for its last words.
	var wg sync.WaitGroup
	var sums [2]*report
	for k := range cmds {
		wg.Go(func() {
			for s := bufio.NewScanner(outs[k]); s.Scan(); {
				line := s.Text()
				if rest, ok := strings.CutPrefix(line, "report "); ok {
					sums[k] = &report{}
					_ = json.Unmarshal([]byte(rest), sums[k])
					continue
				}
				_, _ = fmt.Fprintln(ins[1-k], line)
			}
			_ = ins[1-k].Close()
		})
	}
	wg.Wait()
	if sums[0] == nil || sums[1] == nil {
		return r, fmt.Errorf("an end failed")
	}
	r.Seconds, r.First = sums[0].Seconds, sums[0].First*1e3
	r.CPU = (sums[0].CPU + sums[1].CPU) * 1e9 / float64(bytes)
	return r, nil
}
