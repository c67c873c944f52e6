package proxy

// A fifo is a list, the oldest first, in a slice that slides. T is a pointer.
type fifo[T comparable] struct {
	list []T
	head int
}

func (f *fifo[T]) push(v T) {
	if f.head > len(f.list)/2 && len(f.list) == cap(f.list) {
		n := copy(f.list, f.list[f.head:])
		clear(f.list[n:])
		f.list, f.head = f.list[:n], 0
	}
	f.list = append(f.list, v)
}

// pop takes the first of the list; the zero T where it is empty.
func (f *fifo[T]) pop() (v T) {
	if f.head == len(f.list) {
		return v
	}
	var none T
	v, f.list[f.head] = f.list[f.head], none
	if f.head++; f.head == len(f.list) {
		f.list, f.head = f.list[:0], 0
	}
	return v
}

func (f *fifo[T]) len() int { return len(f.list) - f.head }

func (f *fifo[T]) first() (v T) {
	if f.head == len(f.list) {
		return v
	}
	return f.list[f.head]
}

func (f *fifo[T]) last() (v T) {
	if f.head == len(f.list) {
		return v
	}
	return f.list[len(f.list)-1]
}
