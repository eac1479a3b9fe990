package run

// Who is there, by order and by name: found once and kept up to date, since a host
// with thousands of waiting members looks at them several times a second.

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// index follows from the state and is no part of it. A nil field is made anew when it
// is needed. The slices are never changed in place: whoever walks over one may let
// members go meanwhile.
type index struct {
	inOrder []*member
	placed  []*member
	byName  map[string]*member
	free    int // every node_N with a smaller N is taken
}

// enter takes a member in.
func (m *Machine) enter(x *member) {
	m.names()[x.Name] = x
	m.Members[x.ID] = x
	if m.inOrder != nil {
		i, _ := slices.BinarySearchFunc(m.inOrder, x, m.before)
		all := make([]*member, 0, len(m.inOrder)+1+len(m.inOrder)/64)
		m.inOrder = append(append(append(all, m.inOrder[:i]...), x), m.inOrder[i:]...)
	}
}

// remove takes a member out.
func (m *Machine) remove(x *member) {
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
	if s, ok := strings.CutPrefix(x.Name, "node_"); ok {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 {
			m.free = min(m.free, n)
		}
	}
}

// names are the members by name.
func (m *Machine) names() map[string]*member {
	if m.byName == nil {
		m.byName = make(map[string]*member, len(m.Members))
		for _, x := range m.Members {
			m.byName[x.Name] = x
		}
	}
	return m.byName
}

// before compares members: in the order of the job's names, others after them by name
// with node_2 before node_10. The planner's result must not depend on who came first.
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
