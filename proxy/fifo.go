package proxy

// A fifo is a list of batches, the oldest first, in a slice that slides.
type fifo struct {
	list []*batch
	head int
}

func (f *fifo) push(v *batch) {
	if f.head > len(f.list)/2 && len(f.list) == cap(f.list) {
		n := copy(f.list, f.list[f.head:])
		clear(f.list[n:])
		f.list, f.head = f.list[:n], 0
	}
	f.list = append(f.list, v)
}

// pop takes the first of the list; nil where it is empty.
func (f *fifo) pop() *batch {
	v := f.first()
	if v == nil {
		return nil
	}
	f.list[f.head] = nil
	if f.head++; f.head == len(f.list) {
		f.list, f.head = f.list[:0], 0
	}
	return v
}

func (f *fifo) len() int { return len(f.list) - f.head }

func (f *fifo) first() *batch {
	if f.head == len(f.list) {
		return nil
	}
	return f.list[f.head]
}

func (f *fifo) last() *batch {
	if f.head == len(f.list) {
		return nil
	}
	return f.list[len(f.list)-1]
}
