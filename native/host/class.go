// Numeric classes: a float32 result is the same bit for bit among machines that fuse
// multiply-adds, and among those that do not.

package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/signaling/server"
)

// exact tells whether a job's result depends on nothing but the job and the numeric class.
// In bf16 there is one class.
func exact(j job.Spec) bool { return j.Schedule != "async" && j.Precision != "bf16" }

// ofClass parts a pool in the members of one numeric class and the others. The class is the
// one given, else the one of the most members that number at least want. Where there is no
// such class, all are members.
func ofClass(pool []server.Member, class string, want int) (members, others []server.Member) {
	count := map[string]int{}
	for _, m := range pool {
		count[m.Hello.Class]++
	}
	if class == "" {
		for _, m := range pool { // the first of those that are as many
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

// planClass is planPool, of one numeric class where the job asks for exactness and enough
// members are of one. A run stays with the class that it began with, while that can train it.
func (r *run) planClass(pool []server.Member) error {
	if !exact(r.p.Job) {
		return r.planPool(pool)
	}
	members, others := ofClass(pool, r.class, max(r.opt.Providers, 1))
	if len(others) == 0 {
		return r.planPool(pool)
	}
	if err := r.planPool(members); err != nil {
		r.opt.say("providers of one numeric class are not enough: %v", err)
		return r.planPool(pool)
	}
	r.opt.say("left waiting: %s: their float32 results differ in the last bits from those of the %s providers; with precision bf16 all could take part", classNames(others), members[0].Hello.Class)
	return nil
}

// noteClass remembers the class of those who are placed, and warns where they are of several.
func (r *run) noteClass(placed []server.Member) {
	if !exact(r.p.Job) || len(placed) == 0 {
		return
	}
	first := placed[0].Hello.Class
	if slices.ContainsFunc(placed, func(m server.Member) bool { return m.Hello.Class != first }) {
		r.opt.say("WARNING: the float32 results of %s differ in the last bits, so the result depends on who computes what\nhint: set precision to bf16, which is the same on every machine, or lend machines of one kind", classNames(placed))
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
