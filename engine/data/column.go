// Columns of the tables that people have, by their names.

package data

// Column is a column of a table that is an input of a model.
type Column struct {
	Name string `json:"name"`
	// Values are the texts that it holds: as many inputs, of which that of a row's text is 1 and the
	// others are 0. Nil: it holds numbers.
	Values []string `json:"values,omitempty"`
	// Text tells that a tokenizer makes rows of tokens of it.
	Text bool `json:"text,omitempty"`
}

// Width is the number of inputs.
func (c *Column) Width() int {
	if c.Values == nil {
		return 1
	}
	return len(c.Values)
}
