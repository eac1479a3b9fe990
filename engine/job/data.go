// What a job says about its data beside their name.

package job

// Shards keeps a data set in pieces on disk, of which whoever reads it holds a few at a time.
// The zero value keeps it in memory, if it is not too large for that. It is a part of the job:
// rows that lie in shards are visited in an order of their own.
type Shards struct {
	Bytes int `json:"bytes,omitempty"` // of a shard's inputs and targets, at most
	Group int `json:"group,omitempty"` // shards whose rows are shuffled together
	// Inputs and Targets are the memory that reading takes at least, which the program fills in
	// when it has made the shards.
	Inputs  int `json:"inputs,omitempty"`
	Targets int `json:"targets,omitempty"`
}

// The shards of a job that asks for some and leaves this open. Four megabytes take a provider
// with 50 Mbit/s two thirds of a second, beside which the time of a request does not count;
// eight of them are some ten thousand small images to shuffle.
const (
	DefaultShard = 4 << 20
	DefaultGroup = 8
)

// On tells whether the data set is kept in shards.
func (s Shards) On() bool { return s.Bytes > 0 }

// Shuffled is the number of shards whose rows are shuffled together.
func (s Shards) Shuffled() int {
	if s.Group == 0 {
		return DefaultGroup
	}
	return s.Group
}

func (s Shards) check(f *faults) {
	f.num("shards bytes", s.Bytes, 0, 1<<28)
	f.num("shards group", s.Group, 0, 1<<20)
	f.num("shards inputs", s.Inputs, 0, 1<<40)
	f.num("shards targets", s.Targets, 0, 1<<40)
	if !s.On() && s != (Shards{}) {
		f.bad("shards has no bytes: how large a shard may be")
	}
}

// Augment changes the inputs on their way into the model: [channels, height, width] of images,
// or rows of one axis or none, whose elements are one channel. What is random is a function of
// seed, epoch and row. An image is cropped and flipped in training only, normalised always, in
// this order, as torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize do.
type Augment struct {
	Crop   int       `json:"crop,omitempty"`   // zeros around an image, out of which one of its size is cut
	Flip   bool      `json:"flip,omitempty"`   // left to right, one time in two
	Divide float64   `json:"divide,omitempty"` // the values: 255 makes bytes 0 to 1; 0: by nothing
	Mean   []float64 `json:"mean,omitempty"`   // subtracted, one for each channel or one for all
	Std    []float64 `json:"std,omitempty"`    // divided by, likewise
}

// On tells whether anything is changed.
func (a Augment) On() bool {
	return a.Crop != 0 || a.Flip || a.Divide != 0 || len(a.Mean) > 0 || len(a.Std) > 0
}

func (a Augment) check(f *faults) {
	const channels = 1 << 12
	f.num("augment crop", a.Crop, 0, 1<<12)
	f.real("augment divide", a.Divide, 0, 1e9)
	if a.Divide != 0 {
		f.real("augment divide", a.Divide, 1e-9, 1e9)
	}
	if len(a.Mean) > channels || len(a.Std) > channels {
		f.bad("augment has %d means and %d stds, at most %d are read", len(a.Mean), len(a.Std), channels)
		return
	}
	for _, v := range a.Mean {
		f.real("augment mean", v, -1e9, 1e9)
	}
	for _, v := range a.Std {
		f.real("augment std", v, 1e-9, 1e9)
	}
}
