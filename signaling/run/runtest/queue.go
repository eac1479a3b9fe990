package runtest

import "time"

// timed is something that happens at a time, counted from the world's beginning.
type timed struct {
	at  time.Duration
	seq int
	do  func()
}

// pong is the answer to a ping, on its way.
type pong struct {
	p   *Provider
	seq uint64
}

// queue is a heap of future events, by time and then in the order in which they were added.
// It does not use container/heap because a simulated day has many millions of entries.
type queue []timed

func (q queue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *queue) push(x timed) {
	*q = append(*q, x)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *queue) pop() timed {
	h := *q
	x := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h[last] = timed{}
	h = h[:last]
	*q = h
	for i := 0; ; {
		k := 2*i + 1
		if k >= last {
			return x
		}
		if k+1 < last && h.less(k+1, k) {
			k++
		}
		if !h.less(k, i) {
			return x
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
}
