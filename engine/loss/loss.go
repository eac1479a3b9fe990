// Package loss compares a model's answers with the targets: the training loss with
// its gradient, and the count of right answers.
package loss

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/kernel"
)

// Func is a loss over rows of answers.
type Func struct {
	name string
}

// New finds a loss by its job name: mse or cross_entropy.
func New(name string) (Func, error) {
	switch name {
	case "mse", "cross_entropy":
		return Func{name}, nil
	}
	return Func{}, fmt.Errorf("unknown loss %q", name)
}

// Terms is the number of terms that the mean of a batch of rows is taken over.
func (f Func) Terms(rows, cols int) int {
	if f.name == "mse" {
		return rows * cols
	}
	return rows
}

// Eval returns the sum of the loss's terms over rows of pred and target, both
// [rows, cols], and writes the gradient of the batch's mean to grad if it is not nil;
// terms is the number of terms of the whole batch.
func (f Func) Eval(grad, pred, target []float32, rows, cols, terms int) float32 {
	scale := 1 / float32(terms)
	if f.name == "mse" {
		return kernel.MSE(grad, pred, target, scale)
	}
	return kernel.CrossEntropyProb(grad, pred, target, rows, cols, scale)
}

// Mean is the loss of a batch whose sum of terms is sum.
func Mean(sum float32, terms int) float32 { return sum / float32(terms) }

// Correct counts the rows whose greatest answer is where the target is greatest.
func Correct(pred, target []float32, rows, cols int) int {
	return kernel.CountCorrect(pred, target, rows, cols)
}
