//go:build unix

package native

import (
	"os"
	"strings"
	"syscall"
)

// Scrub takes secrets off this process's command line, where every user of the machine can
// read them: it starts the program again, as the same process, with them in the environment.
// It returns if there are none, or if that cannot be done.
func Scrub() {
	args, env := scrub(os.Args)
	if len(env) == 0 {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	_ = syscall.Exec(self, args, append(os.Environ(), env...)) // on an error, go on as before
}

// scrub returns the arguments without secrets, and these as variables.
func scrub(all []string) (args, env []string) {
	var joins []string
	secret := false // of one of the links, so that all go into the one variable
	for i, arg := range all {
		name, value, whole := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name == "join" && len(arg) > 1 && arg[0] == '-' && i > 0 {
			if !whole && i+1 < len(all) {
				value = all[i+1]
			}
			joins, secret = append(joins, value), secret || strings.Contains(value, "#")
		}
		if arg == "--" {
			break
		}
	}
	if secret {
		env = append(env, "RAVNEST_JOIN="+strings.Join(joins, ","))
	}
	for i := 0; i < len(all); i++ {
		arg := all[i]
		if i == 0 || len(arg) < 2 || arg[0] != '-' {
			args = append(args, arg)
			continue
		}
		if arg == "--" {
			return append(args, all[i:]...), env
		}
		name, value, whole := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !whole && i+1 < len(all) {
			value = all[i+1]
		}
		switch {
		case name == "token" && value != "":
			env = append(env, "RAVNEST_TOKEN="+value)
		case name == "join" && secret:
		case name == "nats" && strings.Contains(value, "@"):
			env = append(env, "RAVNEST_NATS="+value)
		default:
			args = append(args, arg)
			continue
		}
		if !whole {
			i++
		}
	}
	return args, env
}
