package main

// Which host, and as whom.

import (
	"errors"
	"strings"

	lender "github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/urfave/cli/v2"
)

// flags that the commands share.
var (
	joinFlag      = &cli.StringSliceFlag{Name: "join", EnvVars: []string{"RAVNEST_JOIN"}, Usage: "`URL` of the signaling host, or the link of an invitation; repeat it for a job with several hosts"}
	tokenFlag     = &cli.StringFlag{Name: "token", EnvVars: []string{"RAVNEST_TOKEN"}, Usage: "the host's join token, or an invitation"}
	tokenFileFlag = &cli.StringFlag{Name: "token-file", EnvVars: []string{"RAVNEST_TOKEN_FILE"}, Usage: "read it from `FILE`; - is standard input"}
	identityFlag  = &cli.StringFlag{Name: "identity", DefaultText: "identity.pem in ravnest's directory of your configuration", EnvVars: []string{"RAVNEST_IDENTITY"}, Usage: "`FILE` of this provider's key, made if it is not there; none: be nobody in particular"}
)

// hostsOf is the addresses of the job's hosts and the token.
func hostsOf(c *cli.Context) (join []string, token string, err error) {
	for _, s := range c.StringSlice("join") {
		at, secret := native.Link(strings.TrimSpace(s))
		switch {
		case at == "":
			continue
		case token != "" && secret != "" && token != secret:
			return nil, "", errors.New("the links have different tokens: the hosts of one job have one token")
		case secret != "":
			token = secret
		}
		join = append(join, at)
	}
	if len(join) == 0 {
		return nil, "", errors.New("which host? give its address with --join URL")
	}
	file := c.String("token-file")
	given := c.String("token")
	switch {
	case file != "" && (given != "" || token != ""):
		return nil, "", errors.New("a token was given as well as --token-file: give only one")
	case given != "" && token != "":
		return nil, "", errors.New("the link has a token, and there is another one: give one of them")
	case file != "":
		token, err = native.TokenFile(file)
	case given != "":
		token = given
	}
	return join, token, err
}

// provider is a key that speaks for this machine.
type provider struct {
	*native.Identity
	say func(format string, a ...any)
}

// identity opens this provider's key; nil: it has none.
func identity(c *cli.Context, say func(format string, a ...any)) (*provider, error) {
	path := c.String("identity")
	if path == "none" {
		return nil, nil
	}
	given := path != ""
	var err error
	if !given {
		path, err = native.IdentityPath()
	}
	var id *native.Identity
	if err == nil {
		id, err = native.OpenIdentity(path)
	}
	switch {
	case err != nil && given:
		return nil, err
	case err != nil:
		say("%v: this provider joins as nobody in particular, and invitations are of no use to it", err)
		return nil, nil
	case id.Made():
		say("this provider's key is %s, kept in %s", member.Short(id.Key()), path)
	}
	return &provider{id, say}, nil
}

// into lets a provider join with the key, and with what hosts have given it.
func (p *provider) into(cfg *lender.Config) {
	cfg.Identity = p
	u, err := client.ParseURL(cfg.Host)
	if err != nil {
		return // Lend says so
	}
	if cfg.Token == "" {
		cfg.Token = p.Pass(u.String())
	}
	cfg.Pass = func(token string) {
		if err := p.KeepPass(u.String(), token); err != nil {
			p.say("what the host has given this provider cannot be kept: %v", err)
		}
	}
}
