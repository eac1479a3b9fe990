package planner

import "fmt"

// Speed writes samples a second for people: with three digits or all before the point, and no
// exponent.
func Speed(perSecond float64) string {
	if perSecond >= 100 {
		return fmt.Sprintf("%.0f samples/s", perSecond)
	}
	return fmt.Sprintf("%.3g samples/s", perSecond)
}
