// Convolutions that read x as PackBF16 keeps it, some images at a time and while they are in the
// cache: half the memory to read, and no copy of the whole tensor.

package kernel

// keptTensor is a tensor of n elements as PackBF16 keeps it, from element from on.
type keptTensor struct {
	w       []uint32
	n, from int
}

// kept is x as c has it.
func (c *Conv) kept() keptTensor { return keptTensor{w: c.Kept, n: c.sources()} }

// sources is the elements of x.
func (c *Conv) sources() int { return c.N * c.C * c.H * c.W }

// ConvScratchKept is the floats of scratch that the forward pass and the gradient of w need beside
// [ConvScratchBF16] and ConvScratch where c.Kept is set, in each thread.
func ConvScratchKept(c *Conv) int {
	if _, lines := c.lines(false, 1); lines || c.depthwise() {
		return c.sources()
	}
	return c.keptRoom()
}

// keptRoom is the floats of the images of a group that are read together.
func (c *Conv) keptRoom() int {
	if c.Kept == nil {
		return 0
	}
	plane := c.OH() * c.OW()
	images := max(1, enough/plane)
	if plane <= innerPlane {
		images = max(images, innerImages)
	}
	return min(images, c.N) * c.C / c.Groups * c.H * c.W
}

// whole is x as floats, at the front of scratch where it is kept.
func (c *Conv) whole(t *Team, x, scratch []float32) (floats, rest []float32) {
	if c.Kept == nil {
		return x, scratch
	}
	n := c.sources()
	UnpackBF16(t, scratch[:n], c.Kept)
	return scratch[:n], scratch[n:]
}

// source is images from image n on of the channels of a group, an image every step floats. Those
// that are kept are unpacked into room.
func (j *groupTask) source(t *Team, gr, n, images int, room []float32) (x []float32, step int) {
	c := &j.c
	plane := c.H * c.W
	first, size := (n*c.C+gr*c.C/c.Groups)*plane, c.C/c.Groups*plane
	if c.Kept == nil {
		return j.x[first:], c.C * plane
	}
	if c.Groups == 1 {
		j.kept.read(t, room[:images*size], first)
		return room, size
	}
	for i := range images {
		j.kept.read(t, room[i*size:][:size], first+i*c.C*plane)
	}
	return room, size
}

// read sets x to the elements from element at on, on the team's threads.
func (k keptTensor) read(t *Team, x []float32, at int) {
	if t.Threads() == 1 || len(x) < smallCopy {
		k.part(x, k.from+at)
		return
	}
	j := &t.kept
	*j = keptTask{k: k, x: x, at: k.from + at}
	t.Run((len(x)+roundStripe-1)/roundStripe, j)
	*j = keptTask{} // nothing of the caller's is kept
}

// keptTask is keptTensor.read in stripes.
type keptTask struct {
	k  keptTensor
	x  []float32
	at int
}

// Tile implements [Task].
func (j *keptTask) Tile(_, i int) {
	from := i * roundStripe
	j.k.part(j.x[from:min(from+roundStripe, len(j.x))], j.at+from)
}

// part sets x to the elements from element at of the whole tensor on.
func (k keptTensor) part(x []float32, at int) {
	for len(x) > 0 {
		b := at / packBlock * packBlock
		size := min(packBlock, k.n-b)
		words := k.w[b/2:][:(size+1)/2]
		if b == at && size <= len(x) {
			unpackBlock(x[:size], words)
			x, at = x[size:], at+size
			continue
		}
		var block [packBlock]float32
		unpackBlock(block[:size], words)
		n := copy(x, block[at-b:size])
		x, at = x[n:], at+n
	}
}
