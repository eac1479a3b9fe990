// Numeric classes: float32 results have the same bits on all machines that fuse multiply-add,
// and on all that do not.

package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/signaling/server"
)

// exact reports whether a job's result depends only on the job and the numeric class. With
// bf16 there is only one class.
func exact(j job.Spec) bool { return j.Schedule != "async" && j.Precision != "bf16" }

// ofClass splits a pool into the members of one numeric class and the others. It takes the
// class given if that has at least want members, otherwise the largest class that has.
// Without such a class all are members.
func ofClass(pool []server.Member, class string, want int) (members, others []server.Member) {
	count := map[string]int{}
	for _, m := range pool {
		count[m.Hello.Class]++
	}
	if class == "" {
		for _, m := range pool { // among equally large classes, the first
			if c := m.Hello.Class; count[c] >= want && count[c] > count[class] {
				class = c
			}
		}
	}
	if count[class] == 0 {
		return pool, nil
	}
	for _, m := range pool {
		if m.Hello.Class == class {
			members = append(members, m)
		} else {
			others = append(others, m)
		}
	}
	return members, others
}

// planClass is planPool, restricted to one numeric class if the job is exact and enough
// members are of one. A run keeps the class that it began with as long as possible.
func (r *roster) planClass(pool []server.Member, free bool) error {
	if !exact(r.p.Job) {
		return r.planPool(pool, free)
	}
	members, others := ofClass(pool, r.class, max(r.opt.Providers, 1))
	if len(others) == 0 {
		return r.planPool(pool, free)
	}
	if err := r.planPool(members, free); err != nil {
		r.opt.Console.Say("the providers of one numeric class are too few: %v", err)
		return r.planPool(pool, free)
	}
	r.opt.Console.Say("not used for now: %s: their float32 results differ in the last bits from those of the %s providers; with precision bf16 all could take part", classNames(others), members[0].Hello.Class)
	return nil
}

// noteClass remembers the class of the placed providers, and warns if there are several.
func (r *roster) noteClass(placed []server.Member) {
	if !exact(r.p.Job) || len(placed) == 0 {
		return
	}
	first := placed[0].Hello.Class
	if slices.ContainsFunc(placed, func(m server.Member) bool { return m.Hello.Class != first }) {
		r.opt.Console.Say("WARNING: the float32 results of %s differ in the last bits, so the result depends on which provider computes what\nhint: set precision to bf16, which gives the same bits on every machine, or use machines of one kind", classNames(placed))
		return
	}
	r.class = first
}

// classNames lists members with their numeric classes.
func classNames(ms []server.Member) string {
	var s []string
	for _, m := range ms {
		s = append(s, fmt.Sprintf("%s (%s)", m.Name, m.Hello.Class))
	}
	return strings.Join(s, ", ")
}
