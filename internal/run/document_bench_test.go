package run

import (
	"encoding/json"
	"os"
	"testing"
)

// What reading a queued run and its job for the first time costs beside the database.
func BenchmarkDocuments(b *testing.B) {
	read := func(name string) []byte {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	run, job := read("run.json"), read("job.json")
	b.Run("Run", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(run, &Data{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Job", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(job, &JobData{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
