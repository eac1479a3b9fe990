package job

// LoRA are adapters of low rank beside linear layers: the job trains them and leaves the model
// alone, which begins with a checkpoint.
type LoRA struct {
	R     int     `json:"r,omitempty"`     // rank; 0: no adapters
	Alpha float64 `json:"alpha,omitempty"` // what they add is scaled by alpha/r; 0: 8, as in PEFT
	// Target says which layers: names of modules, ends of names, or patterns with * for any
	// characters. Left out: all linear layers but the model's answer.
	Target []string `json:"target,omitempty"`
	// Dropout is that of what adapters read.
	Dropout float64 `json:"dropout,omitempty"`
	// Save says, as Target does, which modules train whole: a new head beside adapters.
	Save []string `json:"save,omitempty"`
}

// On tells whether there are adapters.
func (l LoRA) On() bool { return l.R != 0 }

// IsZero tells that nothing is set.
func (l LoRA) IsZero() bool {
	return l.R == 0 && l.Alpha == 0 && l.Target == nil && l.Dropout == 0 && l.Save == nil
}

// Scaled is Alpha with its default.
func (l LoRA) Scaled() float64 {
	if l.Alpha == 0 {
		return 8
	}
	return l.Alpha
}

func (l LoRA) check(f *faults) {
	f.num("lora r", l.R, 0, 1<<16)
	f.real("lora alpha", l.Alpha, 0, 1e6)
	if !(l.Dropout >= 0 && l.Dropout < 1) {
		f.bad("lora dropout %v is outside 0 <= p < 1", l.Dropout)
	}
	if !l.On() && !l.IsZero() {
		f.bad("lora needs r, the rank of the adapters, above 0")
	}
	checkPatterns(f, "lora target", l.Target)
	checkPatterns(f, "lora save", l.Save)
}
