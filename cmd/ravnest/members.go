package main

// Who may lend machines to a job.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ravnest/ravnest/native/members"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/urfave/cli/v2"
)

func membersCommand() *cli.Command {
	return &cli.Command{
		Name: "members", Usage: "say who may lend machines to the job in DIR", ArgsUsage: "DIR [list | invite | withdraw ID | allow WHO | revoke WHO | ban WHO]",
		Description: "A provider is known by its key; its name is a label. WHO is the beginning of a key, a\n" +
			"name that only one has, or a whole key that has not been here yet. A host that runs\n" +
			"notices changes within a second.\n\n" +
			"invite     prints a link for one provider, which then may join without the token\n" +
			"withdraw   takes back an invitation that nobody has used\n" +
			"allow      lets a provider join without the token\n" +
			"revoke     undoes that: its key is of no use until it is allowed or invited again\n" +
			"ban        keeps a provider out, whatever it shows, and lets go of it if it is there",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.DurationFlag{Name: "for", Value: 7 * 24 * time.Hour, Usage: "how long an invitation is good for, such as 48h"},
			&cli.StringFlag{Name: "note", Usage: "whom an invitation is for, in a line"},
			&cli.StringFlag{Name: "url", DefaultText: "that of the last serve", Usage: "the host's `URL` in an invitation"},
		},
		Action: changeMembers, OnUsageError: usageError,
	}
}

func changeMembers(c *cli.Context) error {
	dir, verb, who := c.Args().Get(0), c.Args().Get(1), c.Args().Get(2)
	if verb == "" {
		verb = "list"
	}
	wants := 2
	if slices.Contains([]string{"withdraw", "allow", "revoke", "ban"}, verb) {
		wants = 3
	}
	switch {
	case dir == "":
		return errors.New("which job? give its directory: ravnest members DIR")
	case verb == "list" && c.NArg() <= 2, c.NArg() == wants:
	case c.NArg() < wants:
		return fmt.Errorf("whom to %s? ravnest members %s lists the members", verb, dir)
	default:
		return fmt.Errorf("unexpected argument %q", c.Args().Get(wants))
	}
	if _, err := os.Stat(filepath.Join(dir, project.JobFile)); err != nil {
		return fmt.Errorf("no job in %s: %w", dir, err)
	}
	m, err := members.Open(dir, false)
	if err != nil {
		return err
	}
	switch verb {
	case "list":
		return listMembers(c, m)
	case "invite":
		return invite(c, m)
	case "withdraw":
		if err := m.Change(func(b *member.Book) error { return b.Withdraw(who) }); err != nil {
			return err
		}
		return print(c, map[string]string{"command": "members", "withdrawn": who}, func(w io.Writer) {
			fmt.Fprintf(w, "the invitation %s is withdrawn\n", who)
		})
	}
	standing, ok := map[string]member.Standing{"allow": member.Allowed, "revoke": member.Known, "ban": member.Banned}[verb]
	if !ok {
		return fmt.Errorf("%q is none of list, invite, withdraw, allow, revoke, ban", verb)
	}
	var done member.Member
	err = m.Change(func(b *member.Book) error {
		key := strings.ToLower(who)
		if proto.CheckKey(key) != nil {
			found, err := b.Find(who)
			if err != nil {
				return err
			}
			key = found.Key
		}
		if err := b.Set(key, standing); err != nil {
			return err
		}
		done, err = b.Find(key)
		return err
	})
	if err != nil {
		return err
	}
	return print(c, done, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s is %s\n", member.Short(done.Key), done.Label, done.Standing)
	})
}

func listMembers(c *cli.Context, m *members.List) error {
	b, err := m.Book()
	if err != nil {
		return err
	}
	b.Secret = ""
	return print(c, b, func(w io.Writer) {
		if len(b.Members)+len(b.Invites) == 0 {
			fmt.Fprintln(w, "nobody has joined with a key yet")
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if len(b.Members) > 0 {
			fmt.Fprintln(t, "KEY\tSTANDING\tNAME\tLAST SEEN\tPROGRAM\tNOTE")
		}
		for _, x := range b.Members {
			last := "never"
			if !x.Last.IsZero() {
				last = x.Last.Local().Format("2006-01-02 15:04")
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", member.Short(x.Key), x.Standing, x.Label, last, strings.TrimSpace(x.Agent+" "+x.Platform), x.Note)
		}
		now := time.Now()
		for _, i := range b.Invites {
			if i.UsedBy == "" && now.Before(i.Expires) {
				fmt.Fprintf(t, "invitation %s\topen until %s\t\t\t\t%s\n", member.Short(i.ID), i.Expires.Local().Format("2006-01-02 15:04"), i.Note)
			}
		}
		_ = t.Flush()
	})
}

func invite(c *cli.Context, m *members.List) error {
	life := c.Duration("for")
	if life <= 0 || life > 366*24*time.Hour {
		return fmt.Errorf("--for %v: want more than 0 and at most a year", life)
	}
	var token, url string
	var made member.Invite
	err := m.Change(func(b *member.Book) (err error) {
		if url = c.String("url"); url == "" {
			url = b.URL
		}
		token, made, err = b.Invite(time.Now(), life, c.String("note"))
		return err
	})
	if err != nil {
		return err
	}
	link := ""
	if url != "" {
		link = strings.TrimRight(url, "/") + "/#token=" + token
	}
	out := struct {
		member.Invite
		Token string `json:"token"`
		Link  string `json:"link,omitempty"`
	}{made, token, link}
	return print(c, out, func(w io.Writer) {
		fmt.Fprintf(os.Stderr, "for one provider, until %s:\n", made.Expires.Local().Format("2006-01-02 15:04"))
		if link == "" {
			fmt.Fprintln(w, token)
			fmt.Fprintln(os.Stderr, "hint: the job has not been served yet; with --url URL, or after the first ravnest serve, this is a link")
			return
		}
		fmt.Fprintln(w, link)
		fmt.Fprintln(os.Stderr, "it opens in a browser, and is taken by ravnest-provider --join")
	})
}
