// The commands that train on providers: demo, clusterize, serve.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/demo"
	"github.com/ravnest/ravnest/native/form"
	"github.com/ravnest/ravnest/native/host"
	"github.com/ravnest/ravnest/native/members"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/site"
	"github.com/urfave/cli/v2"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "train a job with providers on this machine: the walkthrough's, or that in --dir",
		Description: "Starts the signaling host and N providers, trains, validates and fuses.\nRuns the job in --dir, as ravnest init and import write them, or creates the walkthrough's there.",
		Flags: append(jobFlags(), jsonFlag, threads,
			&cli.IntFlag{Name: "providers", Value: 3, Usage: "start `N` providers: all take part if the job's pool file lists as many or with --clusters, else those with whom training is fastest"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "form `N` clusters of them, which share the job's replicas"},
			&cli.IntFlag{Name: "tabs", Usage: "of which `N` are browser tabs that you open"},
			&cli.StringFlag{Name: "dir", Value: "ravnest-demo", Usage: "the job's directory"},
			&cli.StringFlag{Name: "ram", Usage: "`GB` that each provider lends (default: what is available)"},
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "address of the host"}),
		Action: runDemo, OnUsageError: usageError,
	}
}

func runDemo(c *cli.Context) error {
	if c.NArg() > 0 {
		return fmt.Errorf("demo takes no arguments, got %q: give the directory with --dir", c.Args().Slice())
	}
	n, tabs, dir := c.Int("providers"), c.Int("tabs"), c.String("dir")
	if n < 1 || n > 64 {
		return fmt.Errorf("--providers %d is outside 1..64", n)
	}
	if k := c.Int("clusters"); k < 0 || k > n || c.IsSet("clusters") && k == 0 {
		return fmt.Errorf("--clusters %d is outside 1..%d, the number of --providers", k, n)
	}
	if tabs < 0 || tabs > n {
		return fmt.Errorf("--tabs %d is outside 0..%d, the number of --providers", tabs, n)
	}
	if dir == "" {
		return errors.New("--dir is empty: write . for this directory")
	}
	if _, err := threadsFlag(c); err != nil {
		return err
	}
	if s := c.String("ram"); s != "" {
		if _, err := native.ParseSize(s); err != nil {
			return fmt.Errorf("--ram %q: %w", s, err)
		}
	}
	pages, err := pages()
	if err != nil {
		return err
	}
	if tabs > 0 && !pages.Built() {
		return errors.New("--tabs: this ravnest was built without its pages: make builds them (it needs npm)")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating the job's directory: %w", err)
	}
	return locked(dir, "demo", func() error { return demoIn(c, dir, pages) })
}

func demoIn(c *cli.Context, dir string, pages *site.Site) error {
	n, tabs := c.Int("providers"), c.Int("tabs")
	if !project.Exists(dir) {
		if err := project.Init(dir, "cnn", n, nil); err != nil {
			return err
		}
	}
	p, err := project.OpenWith(dir, func(j *job.Spec) { changeLearning(c, j); change(c, j) }, preparing(c.Context))
	if err != nil {
		return err
	}
	ln, err := server.Listen(c.String("listen"), "")
	if err != nil {
		return err
	}
	s, err := demo.Run(c.Context, p, ln, demo.Options{Providers: n, Clusters: c.Int("clusters"), Tabs: tabs, Site: pages, Threads: c.Int("threads"), RAM: c.String("ram"), Console: toConsole()})
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}

func clusterizeCommand() *cli.Command {
	return &cli.Command{
		Name: "clusterize", Usage: "form clusters from the pool in DIR/node_data/node_configs.json and cut the model", ArgsUsage: "DIR",
		Flags: []cli.Flag{
			jsonFlag, &cli.IntFlag{Name: "max-clusters", DefaultText: "as many as pay", Usage: "at most `N` clusters; each trains at least one of the job's replicas"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "exactly `N` clusters"},
		},
		Action: alone(clusterize), OnUsageError: usageError,
	}
}

func clusterize(c *cli.Context) error {
	p, err := open(c)
	if err != nil {
		return err
	}
	most := c.Int("max-clusters")
	if most < 0 {
		return fmt.Errorf("--max-clusters %d is negative: 0 allows any number", most)
	}
	exactly := c.Int("clusters")
	if exactly < 0 || c.IsSet("clusters") && exactly == 0 {
		return fmt.Errorf("--clusters %d: give how many to form, or leave it out to have as many as pay", exactly)
	}
	if c.IsSet("clusters") && c.IsSet("max-clusters") {
		return errors.New("--clusters and --max-clusters contradict each other: give one of them")
	}
	s, err := form.Plan(p, most, exactly)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, strings.TrimRight(s.String(), "\n"))
	return print(c, s, func(w io.Writer) { s.WriteLog(w) })
}

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "serve the job in DIR to providers until it is trained", ArgsUsage: "DIR",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8090", Usage: "`ADDR` to serve at"},
			&cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "secret that providers must show to join"},
			tokenFileFlag,
			&cli.BoolFlag{Name: "members-only", Usage: "let only those join whom ravnest members has allowed or invited; the token then opens the dashboard alone"},
			&cli.IntFlag{Name: "providers", DefaultText: "the plan of clusterize", Usage: "plan by the benchmarks of the first `N` that join: who would slow the others is kept as a spare"},
			&cli.IntFlag{Name: "clusters", DefaultText: "as many as pay", Usage: "with --providers: form `N` clusters, which share the job's replicas"},
			&cli.BoolFlag{Name: "fresh", Usage: "start from the beginning instead of resuming an unfinished run of the same job from its last checkpoint"},
			&cli.IntFlag{Name: "audit-every", DefaultText: "never", Usage: "compute again what was trained before one in `N` checkpoints, drawn at random (1: everything), bar who computed something else, and train again what depends on it"},
			&cli.StringFlag{Name: "audit-by", Value: "host", Usage: "who computes it again: `WHO` is host, or spares, which are providers that wait; the host then computes what none of them can, or finds wrong"},
			&cli.IntFlag{Name: "audit-log", Value: 256, Usage: "keep the newest `MB` of what audits compare, beside what an audit of the newest checkpoints needs"},
			&cli.StringFlag{Name: "nats", EnvVars: []string{"RAVNEST_NATS"}, Usage: "keep the run's state in the NATS server at `URL`, with JetStream, so that several hosts can serve the job: give it to each"},
			&cli.StringFlag{Name: "nats-creds", Usage: "`FILE` of credentials for it"},
			&cli.IntFlag{Name: "nats-replicas", Value: 1, Usage: "keep `N` copies in a cluster of NATS servers: 1, 3 or 5"},
			&cli.StringFlag{Name: "tls-cert", Usage: "serve https with the certificate in `FILE`, read again when it changes"},
			&cli.StringFlag{Name: "tls-key", Usage: "key of that certificate, in `FILE`"},
			&cli.StringFlag{Name: "public", Usage: "`URL` by which people reach the host, including any path prefix of a proxy"},
			&cli.StringFlag{Name: "acme", Usage: "get the certificate for --public from the ACME directory at `URL`, whose terms you accept, such as https://acme-v02.api.letsencrypt.org/directory; it connects to this host at port 443"},
			&cli.StringFlag{Name: "acme-cache", Usage: "`DIR` where that certificate and its key are kept (default: node_data/acme of the job)"},
			&cli.BoolFlag{Name: "proxy", Usage: "the host is behind a reverse proxy: trust its Forwarded and X-Forwarded-* headers"},
			&cli.StringFlag{Name: "relay", Usage: "`ADDR` (UDP and TCP) of the relay for providers without a direct path (default: that of --listen, if other machines can reach it)"},
			&cli.BoolFlag{Name: "log-json", Usage: "write messages as JSON, a record a line"},
			&cli.BoolFlag{Name: "no-relay", Usage: "do not relay between providers without a direct path"},
			&cli.StringFlag{Name: "trace", Usage: "write the run's events to `FILE` as JSON lines, from which it can be replayed"},
		},
		Action: alone(serve), OnUsageError: usageError,
	}
}

func serve(c *cli.Context) (err error) {
	p, err := open(c)
	if err != nil {
		return err
	}
	if err := checkServe(c, p); err != nil {
		return err
	}
	shared, err := natsOf(c)
	if err != nil {
		return err
	}
	token, err := tokenOf(c)
	if err != nil {
		return err
	}
	ln, err := server.Listen(c.String("listen"), token)
	if err != nil {
		return err
	}
	list, err := members.Open(p.Dir, c.Bool("members-only"))
	if err != nil {
		return err
	}
	edge, err := edgeOf(c, ln, token)
	if err != nil {
		return err
	}
	pages, err := pages()
	if err != nil {
		return err
	}
	out := toConsole()
	if c.Bool("log-json") {
		errorLog = native.JSONLog(os.Stderr, "ravnest")
		out = console.New(errorLog)
	}
	trace, done, err := traceFile(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	telemetry, err := otlp.New("ravnest", version, os.Getenv, out.Say)
	if err != nil {
		return err
	}
	defer telemetry.Close()
	s, err := host.Serve(c.Context, p, host.Options{
		Listener: ln, Site: pages, Edge: edge, Token: token, Agent: "ravnest/" + version, Members: list, Providers: c.Int("providers"), Clusters: c.Int("clusters"), Fresh: c.Bool("fresh"), AuditEvery: c.Int("audit-every"), AuditSpares: c.String("audit-by") == "spares", AuditLog: int64(c.Int("audit-log")) << 20, NATS: shared, Console: out, Trace: trace, Telemetry: telemetry,
		Listening: func(_ context.Context, url string) error {
			warnPlain(out, url, ln.Addr(), edge)
			out.Say("serving at %s: start providers with ravnest-provider --join %s", url, url)
			if pages.Built() {
				out.Say("contribute: %s/\ndashboard: %s/dashboard", url, url)
			} else {
				out.Say("no pages in this build: tabs cannot join until make has built them")
			}
			return nil
		},
	})
	if err = asResult(c, err); err != nil {
		return err
	}
	return summary(c, s)
}

// checkServe refuses flags that cannot be, or not together, or not for this job.
func checkServe(c *cli.Context, p *project.Project) error {
	if n := c.Int("providers"); n < 0 || c.IsSet("providers") && n == 0 {
		return fmt.Errorf("--providers %d: give how many to wait for, or leave it out to use the plan of clusterize", n)
	}
	if n := c.Int("audit-every"); n < 0 || n > 0 && !p.Job.Audit {
		return fmt.Errorf("--audit-every %d: want at least 1, and \"audit\": true in job.json (init --audit)", n)
	}
	if who := c.String("audit-by"); who != "host" && who != "spares" || c.IsSet("audit-by") && c.Int("audit-every") == 0 {
		return fmt.Errorf("--audit-by %.20q: want host or spares, with --audit-every", who)
	}
	if n := c.Int("audit-log"); n < 1 || n > 1<<20 || c.IsSet("audit-log") && !p.Job.Audit {
		return fmt.Errorf("--audit-log %d: want 1 to %d, and \"audit\": true in job.json (init --audit)", n, 1<<20)
	}
	if k, n := c.Int("clusters"), c.Int("providers"); c.IsSet("clusters") && (k < 1 || k > n) {
		if n == 0 {
			return fmt.Errorf("--clusters %d goes with --providers: the plan of clusterize has its clusters", k)
		}
		return fmt.Errorf("--clusters %d is outside 1..%d, the number of --providers", k, n)
	}
	if c.Bool("no-relay") && c.String("relay") != "" {
		return errors.New("--relay and --no-relay contradict each other: give one of them")
	}
	return nil
}

// natsOf reads the flags about NATS.
func natsOf(c *cli.Context) (host.NATS, error) {
	n := host.NATS{URL: c.String("nats"), Creds: c.String("nats-creds"), Replicas: c.Int("nats-replicas")}
	switch {
	case n.URL == "" && (c.IsSet("nats-creds") || c.IsSet("nats-replicas")):
		return n, errors.New("--nats-creds and --nats-replicas go with --nats URL")
	case n.Replicas < 1 || n.Replicas > 5:
		return n, fmt.Errorf("--nats-replicas %d is outside 1..5", n.Replicas)
	}
	return n, nil
}

// edgeOf reads the flags about how the host is reached over the network.
func edgeOf(c *cli.Context, ln net.Listener, token string) (host.Edge, error) {
	e := host.Edge{Proxy: c.Bool("proxy")}
	if cert, key := c.String("tls-cert"), c.String("tls-key"); cert != "" || key != "" {
		if cert == "" || key == "" {
			return e, errors.New("--tls-cert and --tls-key must be given together: the certificate and its key")
		}
		loaded, err := server.LoadCertificate(cert, key)
		if err != nil {
			return e, err
		}
		e.TLS = loaded.TLS()
	}
	var err error
	if s := c.String("public"); s != "" {
		if e.Public, err = server.ParsePublic(s); err != nil {
			return e, err
		}
	}
	if dir := c.String("acme"); dir != "" {
		if e.TLS != nil || e.Public == nil || e.Public.Scheme != "https" || e.Proxy {
			return e, errors.New("--acme gets a certificate for the host's name: give it with --public https://NAME, and neither --tls-cert nor --proxy")
		}
		cache := c.String("acme-cache")
		if cache == "" {
			cache = filepath.Join(c.Args().First(), "node_data", "acme")
		}
		if e.TLS, err = server.ACME(dir, cache, e.Public.Hostname()); err != nil {
			return e, err
		}
	}
	switch at := c.String("relay"); {
	case c.Bool("no-relay"):
	case at != "":
		if e.RelayTCP, err = server.Listen(at, token); err != nil {
			return e, fmt.Errorf("--relay: %w", err)
		}
		e.RelayUDP, err = server.ListenUDP(e.RelayTCP)
	default:
		e.RelayUDP, err = server.ListenUDP(ln)
	}
	return e, err
}

// warnPlain warns that others can read what is sent, or that people are told an address that this
// host does not serve.
func warnPlain(w io.Writer, at string, ln net.Addr, e host.Edge) {
	u, err := url.Parse(at)
	switch {
	case err != nil || native.Loopback(at):
	case u.Scheme == "http":
		fmt.Fprintln(w, "WARNING: this is plain http: the token, the data and the trained weights cross the network unencrypted, and tabs can use only one core.\nhint: give --tls-cert and --tls-key, or put a reverse proxy with https in front and give --proxy --public https://...")
	case e.TLS == nil && !e.Proxy:
		fmt.Fprintf(w, "WARNING: people are told %s, but this host has no certificate: it serves plain http at %s.\nhint: give --acme URL, or --tls-cert and --tls-key; or --proxy, if a reverse proxy in front has the certificate\n", at, ln)
	}
}

// tokenOf is the token of the flags.
func tokenOf(c *cli.Context) (string, error) {
	file, token := c.String("token-file"), c.String("token")
	switch {
	case file == "":
		return token, nil
	case token != "":
		return "", errors.New("a token was given as well as --token-file: give only one")
	}
	return native.TokenFile(file)
}

// pages returns the site embedded in this program.
func pages() (*site.Site, error) {
	s, err := site.Embedded()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded pages: %w", err)
	}
	return s, nil
}
