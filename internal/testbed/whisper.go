package testbed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
)

// An archivePoint is one stored value.
type archivePoint struct {
	Time  int64 // Unix seconds
	Value float64
}

// readWhisper returns the points of the finest archive of a whisper file, in the
// order of the ring. The file, all big-endian:
//
//	aggregation u32 · longest retention u32 · x-files factor f32 · archives u32
//	then for each archive: offset u32 · seconds a point u32 · points u32
//	then for each point:   time u32 (0: none) · value f64
//
// https://github.com/graphite-project/whisper/blob/master/whisper.py
func readWhisper(path string) ([]archivePoint, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var header struct {
		Aggregation, Retention uint32
		XFilesFactor           float32
		Archives               uint32
		Offset, Step, Points   uint32
	}
	r := bytes.NewReader(data)
	if err := binary.Read(r, binary.BigEndian, &header); err != nil {
		return nil, fmt.Errorf("%s: header: %w", path, err)
	}
	ring := make([]struct {
		Time  uint32
		Value float64
	}, header.Points)
	if _, err := r.Seek(int64(header.Offset), 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := binary.Read(r, binary.BigEndian, ring); err != nil {
		return nil, fmt.Errorf("%s: %d points: %w", path, header.Points, err)
	}
	var points []archivePoint
	for _, p := range ring {
		if p.Time != 0 {
			points = append(points, archivePoint{int64(p.Time), p.Value})
		}
	}
	return points, nil
}
