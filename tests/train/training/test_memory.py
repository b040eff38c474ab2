"""What is free, as the system says. (What is refused: ../test_mistakes.py.)"""

from rstg_pyg.train.training import memory


def test_memory_that_files_fill_is_free(tmp_path, monkeypatch):
    """A container counts what it read from files as used."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:  8000 kB\nSwapFree: 1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes() == 9000 << 10
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4900000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 3000000\nactive_file 900000\n")
    assert memory.free_bytes() == 4_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 9000 << 10
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "nothing")
    assert memory.free_bytes() is None
