package run

// Indexes of the members by order and by name. They are kept up to date instead of being
// rebuilt, since a host with thousands of waiting members uses them several times a second.

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// index is derived from the state and not part of it. A nil field is rebuilt when it is
// needed. inOrder, placed and wishes are never modified in place, so that members can be
// removed while a loop walks over one of them; nor is absent.
type index struct {
	inOrder []*member
	placed  []*member
	byName  map[string]*member
	free    int       // every node_N with a smaller N is taken, or N is one of holes
	holes   []int     // ascending
	wishes  []*member // those that want to leave
	absent  []*member // without a connection
	turns   []turn    // to be pinged, in this order
	slow    []turn    // the same of those who are pinged more seldom
	quiet   []*member // those whose silence may become too long before they are pinged again
}

// turn is a member's place in the queue of pings. It is over once the member has been
// pinged or is gone.
type turn struct {
	x *member
	n uint64 // member.Turn
}

func (t turn) over() bool { return t.x.gone || t.x.Turn != t.n }

// enter adds a member.
func (m *Machine) enter(x *member) {
	x.gone = false
	m.names()[x.Name] = x
	m.Members[x.ID] = x
	if m.inOrder != nil {
		i, _ := slices.BinarySearchFunc(m.inOrder, x, m.before)
		all := make([]*member, 0, len(m.inOrder)+1+len(m.inOrder)/64)
		m.inOrder = append(append(append(all, m.inOrder[:i]...), x), m.inOrder[i:]...)
	}
}

// remove removes a member.
func (m *Machine) remove(x *member) {
	x.gone = true
	delete(m.names(), x.Name)
	delete(m.Members, x.ID)
	if i, ok := slices.BinarySearchFunc(m.inOrder, x, m.before); ok {
		m.inOrder = append(slices.Clone(m.inOrder[:i]), m.inOrder[i+1:]...)
	} else {
		m.inOrder = nil
	}
	if x.Place != nil {
		m.placed = nil
	}
	if x.Wish != "" {
		m.wishes = without(m.wishes, x)
	}
	if x.Away != "" {
		m.absent = without(m.absent, x)
	}
	if s, ok := strings.CutPrefix(x.Name, "node_"); ok {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 {
			if i, ok := slices.BinarySearch(m.holes, n); !ok && n < m.free {
				m.holes = slices.Insert(m.holes, i, n)
			}
		}
	}
}

// with is a list in order and a member that is not in it. A list that is not known stays so.
func (m *Machine) with(list []*member, x *member) []*member {
	if list == nil {
		return nil
	}
	i, _ := slices.BinarySearchFunc(list, x, m.before)
	return slices.Insert(slices.Clone(list), i, x)
}

// without is a list without a member; that of nobody is empty and not nil.
func without(list []*member, x *member) []*member {
	if list == nil {
		return nil
	}
	rest := make([]*member, 0, len(list))
	for _, y := range list {
		if y != x {
			rest = append(rest, y)
		}
	}
	return rest
}

// freeNumber returns the smallest N for which node_N is not in use and may be used.
func (m *Machine) freeNumber(may func(name string) bool) int {
	name := func(n int) string { return "node_" + strconv.Itoa(n) }
	for i := 0; i < len(m.holes); {
		n := name(m.holes[i])
		if m.names()[n] != nil {
			m.holes = slices.Delete(m.holes, i, i+1)
			continue
		}
		if may(n) {
			return m.holes[i]
		}
		i++
	}
	for i := m.free; ; i++ {
		n := name(i)
		taken := m.names()[n] != nil
		if taken && i == m.free {
			m.free++
		}
		if !taken && may(n) {
			return i
		}
	}
}

// names returns the members by name.
func (m *Machine) names() map[string]*member {
	if m.byName == nil {
		m.byName = make(map[string]*member, len(m.Members))
		for _, x := range m.Members {
			m.byName[x.Name] = x
		}
	}
	return m.byName
}

// before compares two members: first come the job's names in their order, then all
// others by name, with node_2 before node_10. The planner's result must not depend on
// the order of joining.
func (m *Machine) before(a, b *member) int {
	rank := func(x *member) int {
		if m.Job == nil {
			return 0
		}
		if i := slices.Index(m.Job.Names, x.Name); i >= 0 {
			return i
		}
		return len(m.Job.Names)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
}

// wishing returns the members that want to leave, in order.
func (m *Machine) wishing() []*member {
	if m.wishes == nil {
		m.wishes = []*member{}
		for _, x := range m.sorted() {
			if x.Wish != "" {
				m.wishes = append(m.wishes, x)
			}
		}
	}
	return m.wishes
}

// silent returns the members that have not been heard from for too long.
func (m *Machine) silent(now time.Time) []*member {
	if m.turns == nil {
		m.turns, m.slow = []turn{}, nil
		for _, x := range m.Members {
			m.queue(turn{x, x.Turn})
		}
		for _, q := range [][]turn{m.turns, m.slow} {
			slices.SortFunc(q, func(a, b turn) int { return cmp.Compare(a.n, b.n) })
		}
		m.quiet = slices.Clone(m.sorted())
	}
	var dead []*member
	rest := m.quiet[:0]
	for _, x := range m.quiet {
		switch {
		case x.gone || x.Away != "":
		case now.Sub(x.Seen) >= m.timeout(x):
			dead = append(dead, x)
		case m.fading(now, x):
			rest = append(rest, x)
		}
	}
	clear(m.quiet[len(rest):])
	m.quiet = rest
	slices.SortFunc(dead, m.before)
	return slices.Compact(dead)
}

// fading reports whether a member's silence may become too long before its next ping.
func (m *Machine) fading(now time.Time, x *member) bool {
	return now.Sub(x.Seen)+2*m.beat(x) >= m.timeout(x)
}

// Where many wait for their part, most are pinged more seldom. As many as manyWait have the
// usual heartbeat, and who gets a stage has it from then on.
const (
	manyWait = 128
	slowness = 20 // heartbeats
)

// beat is the time between two pings of a member.
func (m *Machine) beat(x *member) time.Duration {
	if x.Slow {
		return slowness * m.set.Heartbeat
	}
	return m.set.Heartbeat
}

// timeout is the silence after which a member is dead.
func (m *Machine) timeout(x *member) time.Duration {
	if x.Slow {
		return slowness * m.set.Timeout
	}
	return m.set.Timeout
}

// queue adds a ping to those of its heartbeat, which are in the order of their times.
func (m *Machine) queue(t turn) {
	if t.x.Slow {
		m.slow = append(m.slow, t)
	} else {
		m.turns = append(m.turns, t)
	}
}

// due returns the next member that is due for a ping, or nil.
func (m *Machine) due(now time.Time) *member {
	if x := m.dueOf(now, &m.turns); x != nil {
		return x
	}
	return m.dueOf(now, &m.slow)
}

func (m *Machine) dueOf(now time.Time, q *[]turn) *member {
	for len(*q) > 0 {
		t := (*q)[0]
		switch {
		case t.over():
		case now.Sub(t.x.Pinged) < m.beat(t.x):
			return nil
		default:
			if m.fading(now, t.x) {
				m.quiet = append(m.quiet, t.x)
			}
			*q = (*q)[1:]
			return t.x
		}
		*q = (*q)[1:]
	}
	return nil
}

// sorted returns the members in order.
func (m *Machine) sorted() []*member {
	if m.inOrder == nil {
		m.inOrder = make([]*member, 0, len(m.Members))
		for _, x := range m.Members {
			m.inOrder = append(m.inOrder, x)
		}
		slices.SortFunc(m.inOrder, m.before)
	}
	return m.inOrder
}

// assigned returns the members of the current attempt by cluster and stage.
func (m *Machine) assigned() []*member {
	if m.placed == nil {
		m.placed = []*member{}
		for _, x := range m.Members {
			if x.Place != nil {
				m.placed = append(m.placed, x)
			}
		}
		slices.SortFunc(m.placed, func(a, b *member) int {
			return cmp.Or(cmp.Compare(a.Place.Cluster, b.Place.Cluster), cmp.Compare(a.Place.Stage, b.Place.Stage))
		})
	}
	return m.placed
}
