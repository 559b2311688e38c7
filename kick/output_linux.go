package kick

import (
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a run's output, in bytes.
const (
	maxOutput  = 1 << 20  // of the file, at every instant
	keptOutput = 64 << 10 // of the file, after it became too large
	tailOutput = 4 << 10  // of the result
)

// droppedNote is the first line of an output file that was cut.
const droppedNote = "[kicker: the output before this was dropped]\n"

// drainTime is how long the shim reads what is left in the pipe after the run. It is all there already: more time would
// only serve a process that has the pipe and is none of the run's.
const drainTime = time.Second

// output is what the processes of a run write: into a pipe, which the shim copies into a file of bounded size.
type output struct {
	pipe *os.File // the end to write into
	read *os.File
	file *os.File
	size int64  // of the file
	last []byte // the last tailOutput bytes, even if the disk is full
	done chan struct{}
}

// openOutput makes the pipe and begins to copy. finish ends that.
func openOutput(l Launch) (*output, error) {
	file, err := os.OpenFile(l.outputFile(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) // it may show secrets
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		file.Close()
		return nil, err
	}
	o := &output{pipe: write, read: read, file: file, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		io.Copy(writerOnly{o}, readerOnly{o.read}) // ends at the end of the pipe, or at the deadline of finish
	}()
	return o, nil
}

// Without ReadFrom and WriteTo, which would let the kernel copy past the bound.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

// Write appends to the file, after it has cut it if it would become too large. It never fails: a full disk must neither
// end the run nor stop its command at a full pipe.
func (o *output) Write(data []byte) (int, error) {
	o.last = append(o.last, data[max(0, len(data)-tailOutput):]...)
	o.last = append(o.last[:0], o.last[max(0, len(o.last)-tailOutput):]...)
	if o.size+int64(len(data)) <= maxOutput || o.cut() {
		n, _ := o.file.Write(data)
		o.size += int64(n)
	}
	return len(data), nil
}

// cut leaves only the end of the file, and reports whether it could.
func (o *output) cut() bool {
	end := make([]byte, keptOutput)
	n, _ := o.file.ReadAt(end, max(0, o.size-keptOutput))
	if o.file.Truncate(0) != nil {
		return false
	}
	n, _ = o.file.WriteString(droppedNote + string(end[:n]))
	o.size = int64(n)
	return true
}

// finish returns the end of the output, when the run is over and its pipe is empty.
func (o *output) finish() string {
	o.pipe.Close()
	o.read.SetReadDeadline(time.Now().Add(drainTime))
	<-o.done
	o.read.Close()
	o.file.Close()
	return validTail(o.last, len(o.last) == tailOutput)
}

// tail returns the end of a run's output that is in the file, as valid UTF-8.
func tail(l Launch) string {
	f, err := os.Open(l.outputFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	from, _ := f.Seek(-tailOutput, io.SeekEnd) // fails for a shorter file, which stays at its start
	data, _ := io.ReadAll(io.LimitReader(f, tailOutput))
	return validTail(data, from > 0)
}

// validTail returns data as valid UTF-8. If it was cut, it may begin with the rest of a rune.
func validTail(data []byte, wasCut bool) string {
	for wasCut && len(data) > 0 && !utf8.RuneStart(data[0]) {
		data = data[1:]
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}
