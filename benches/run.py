#!/usr/bin/env python3
"""cfs-dag beside upstream's pull (composefs-oci 0.9.4): whole processes, the same images, alternating.

Every pair of runs pulls into two fresh, numbered repositories; on disk nothing is deleted before the end, because a mass
deletion slows an ext4 without journal down for minutes. Measured of each run: wall time, user + system time of
the process and of everything it started (also what it left behind: we adopt and wait for it), and the peak memory of
each program by itself (VmHWM, sampled).
Ratios are theirs / ours, by pairs: above 1, we are faster.
"""

import argparse, ctypes, functools, json, math, os, platform, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TMPFS = Path("/dev/shm")
BATCH = ["base", "python", "web", "small", "large"]
SCALING = [("one layer", ["fat"]), ("four layers", ["large"]), ("five images", BATCH)]

# name, what it shows, images, options: before (pulled first, unmeasured), algorithm, docker, floor
CASES = [
    dict(name="1 large", says="one large image, few files", images=["large"], floor=True),
    dict(name="1 large sha256", says="the same, SHA-256 repository", images=["large"], algorithm="sha256", floor=True),
    dict(name="2 small files", says="a hundred thousand small files", images=["many"]),
    dict(name="3 fat layer", says="one fat layer", images=["fat"]),
    dict(name="3 fat layer sha256", says="the same, SHA-256 repository", images=["fat"], algorithm="sha256"),
    dict(name="4 zstd", says="the large image, zstd layers", images=["zstd"]),
    dict(name="5 batch", says="five images at once; theirs one after another", images=BATCH),
    dict(name="6 warm", says="the same five again", images=BATCH, before=BATCH),
    dict(name="7 rebuilt", says="three images rebuilt: same files, new layers", images=["rebuilt", "rebuilt-small", "rebuilt-large"], before=["python", "small", "large"]),
    dict(name="8 docker", says="the large image from a registry on loopback", images=["large"], docker=True),
]
# What we want: the least medians of the ratios of wall and cpu time, by the case's number, on tmpfs and on disk.
TARGETS = {
    "1": {"tmpfs": (2.0, 1.6), "disk": (1.5, 1.5)},
    "2": {"tmpfs": (3.0, 2.2), "disk": (1.5, 1.5)},
    "3": {"tmpfs": (2.0, 1.6), "disk": (1.5, 1.5)},
    "4": {"tmpfs": (1.5, 1.2), "disk": (1.3, 1.2)},
    "5": {"tmpfs": (2.5, 1.8), "disk": (2.0, 1.8)},
    "6": {"tmpfs": (20, 20), "disk": (20, 20)},
    "7": {"tmpfs": (3, 2), "disk": (3, 2)},
    "8": {"tmpfs": (1.3, 1.2), "disk": (1.3, 1.2)},
}
FLOOR_TARGET = 1.25  # our cpu over the floor, at most
MEMORY_MIB, BESIDE_MIB, PER_ENTRY_MIB = 256, 32, 1400 / 2**20  # what our process may take

QUICK = [
    dict(name="1 several layers", says="one image of three layers", images=["python"], floor=True),
    dict(name="2 small files", says="twenty thousand small files", images=["small"]),
    dict(name="5 batch", says="four images at once; theirs one after another", images=["base", "python", "web", "small"]),
    dict(name="6 warm", says="the same image again", images=["python"], before=["python"]),
    dict(name="7 rebuilt", says="same files, new layers", images=["rebuilt"], before=["python"]),
    dict(name="8 docker", says="from a registry on loopback", images=["python"], docker=True),
]


def main():
    options = parse_options()
    cases = [case for case in (QUICK if options.quick else CASES) if options.case in case["name"]]
    if not cases:
        sys.exit(f"no case is called {options.case!r}")
    build(options)
    layout = make_images({image for case in cases for image in case["images"] + case.get("before", [])})
    sizes = image_sizes(layout)
    registry = Registry(layout) if any(case.get("docker") for case in cases) else None
    results, curves = [], []
    try:
        for place, folder in places(options):
            for case in cases:
                entries = max(sizes[image]["entries"] for image in case["images"])
                allowed = MEMORY_MIB + BESIDE_MIB + PER_ENTRY_MIB * entries
                target = None if options.quick else TARGETS[case["name"].split()[0]][place]
                runs = measure(case, folder, layout, registry, options)
                results.append(dict(case, place=place, target=target, allowed_mib=allowed, **runs))
                print(table(results[-1:], header=len(results) == 1), flush=True)
                write_reports(results, curves, options, layout)
        if options.scaling:
            for curve in SCALING:
                curves.append(scaling(layout, options, *curve))
                write_reports(results, curves, options, layout)
    finally:
        if registry:
            registry.stop()
        for series in LEFT:
            shutil.rmtree(series)
    print(f"\nwritten: {options.out}/results.json, .md, .svg", file=sys.stderr)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images, 2 pairs, tmpfs only: a first look, not a result")
    parser.add_argument("--pairs", type=int, help="pairs of runs for each case (5; quick: 2)")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--scaling", action="store_true", help="also replay recorded pieces on 1 to 32 workers")
    parser.add_argument("--on", choices=["tmpfs", "disk", "both"], help="where the repositories are (both; quick: tmpfs)")
    parser.add_argument("--disk", type=Path, default=TARGET / "bench", help="the folder on disk (target/bench)")
    parser.add_argument("--out", type=Path, default=TARGET / "bench-results", help="where results.{json,md,svg} go")
    parser.add_argument("--ours", type=Path, help="another cfs-dag than the release build")
    options = parser.parse_args()
    options.pairs = options.pairs or (2 if options.quick else 5)
    options.on = options.on or ("tmpfs" if options.quick else "both")
    return options


def build(options):
    print("building both sides", file=sys.stderr)
    cargo = ["cargo", "build", "--release", "--quiet"]
    if not options.ours:
        subprocess.run(cargo, cwd=ROOT, check=True)
        options.ours = TARGET / "release/cfs-dag"
    told = subprocess.run(cargo + ["--benches", "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    made = [json.loads(line) for line in told.stdout.splitlines()]
    options.benches = {one["target"]["name"]: one["executable"] for one in made if one.get("executable") and one["target"]["kind"] == ["bench"]}
    # A target folder of its own: other features of the same crates, so nothing could be shared.
    upstream = ["--manifest-path", ROOT / "benches/upstream/Cargo.toml", "--target-dir", TARGET / "upstream", "--locked"]
    subprocess.run(cargo + upstream, check=True)
    options.theirs = TARGET / "upstream/release/upstream-pull"


def make_images(names):
    print("making images out of Debian packages", file=sys.stderr)
    subprocess.run([ROOT / "tests/make-images.sh", TARGET / "images", *sorted(names)], check=True, stdin=subprocess.DEVNULL)
    return TARGET / "images/oci"


def places(options):
    if options.on in ("tmpfs", "both"):
        yield "tmpfs", TMPFS
    if options.on in ("disk", "both"):
        options.disk.mkdir(parents=True, exist_ok=True)
        yield "disk", options.disk


# --- measuring


def measure(case, folder, layout, registry, options):
    """All pairs of one case: {side: {metric: [by pair]}}."""
    runs = {"ours": [], "theirs": [], "floor": []}
    series = Path(tempfile.mkdtemp(prefix="cfs-dag-bench-", dir=folder))
    try:
        for pair in range(options.pairs):
            for side in ("ours", "theirs") if pair % 2 == 0 else ("theirs", "ours"):
                repo = series / f"{pair}-{side}"
                settle(folder, layout)
                if before := case.get("before"):
                    run(command(side, case, before, repo, layout, None, options))
                os.sync()  # what others left to write is not this run's
                images = registry if case.get("docker") else None
                runs[side].append(run(command(side, case, case["images"], repo, layout, images, options)))
                runs[side][-1]["objects"] = sum(len(files) for _, _, files in os.walk(repo / "objects"))
            ours, theirs = (runs[side][-1]["objects"] for side in ("ours", "theirs"))
            # Only the streams of manifests and configs may be other objects than upstream's, which makes new ones each time.
            if abs(ours - theirs) > 4 * len(case["images"]):
                sys.exit(f"{case['name']}: {ours} objects of ours, {theirs} of theirs: not the same work")
            if case.get("floor") and folder == TMPFS:
                runs["floor"].append(floor(case, layout, series / f"{pair}-floor", options))
            if folder == TMPFS:  # on disk a mass deletion would slow down the next pairs
                for repo in series.iterdir():
                    shutil.rmtree(repo)
    finally:
        put_away(series)
    return runs


LEFT = []  # what is still to be deleted
ROOM = 12 << 30


def put_away(series):
    """Deletes a series: on tmpfs at once, on disk when all cases are done, or the oldest when there is no room left."""
    LEFT.append(series)
    while LEFT and (LEFT[0].parent == TMPFS or shutil.disk_usage(LEFT[0]).free < ROOM):
        if LEFT[0].parent != TMPFS:
            print("no room left on disk: deleting a series, which slows down what follows", flush=True)
        shutil.rmtree(LEFT.pop(0))


def settle(folder, layout):
    """Empties the page cache, but for the blobs: one that grows with each repository, into memory that this (virtual)
    machine never had before, made runs on disk up to 60 % slower."""
    if folder != TMPFS:
        os.sync()
        try:
            Path("/proc/sys/vm/drop_caches").write_text("1")
        except OSError as error:
            print(f"the page cache stays as it is ({error}): times on disk will drift", file=sys.stderr)
        for blob in Path(layout, "blobs/sha256").iterdir():
            blob.read_bytes()


def floor(case, layout, folder, options):
    """What the bytes cost with nothing around them: cpu seconds by part."""
    command = [options.benches["floor"], layout, *case["images"], folder, case.get("algorithm", "sha512")]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def scaling(layout, options, name, images):
    """Replays what each piece of a pull costs on 1 to 32 workers; beside it real runs on as many as there are here."""
    with tempfile.TemporaryDirectory(prefix="cfs-dag-bench-", dir=TMPFS) as folder:
        replay = [options.benches["scaling"], layout, f"{folder}/recorded", *images]
        curve = json.loads(subprocess.run(replay, check=True, stdout=subprocess.PIPE).stdout)
        shutil.rmtree(f"{folder}/recorded")
        real, repo = {1: [], 2: []}, Path(folder, "real")
        for _ in range(options.pairs):
            for jobs, walls in real.items():
                pull = command("ours", dict(name=name), images, repo, layout, None, options)
                walls.append(run(pull + [f"-j{jobs}"])["wall_s"])
                shutil.rmtree(repo)
    return dict(curve, name=name, real={jobs: statistics.median(walls) for jobs, walls in real.items()})


def command(side, case, images, repo, layout, registry, options):
    references = [registry.reference(name) if registry else f"oci:{layout}:{name}" for name in images]
    algorithm = case.get("algorithm", "sha512")
    if side == "theirs":
        return [options.theirs, "--algorithm", algorithm, "--repo", repo, *references]
    # The flags of init count only where there is no repository yet.
    init = [] if repo.exists() else ["--insecure", "--algorithm", algorithm]
    return [options.ours, "pull", "--progress=none", "--repo", repo, *init, "--tls-verify=false", *references]


def run(arguments):
    with tempfile.TemporaryFile() as said:
        bystanders = children(os.getpid())
        start = time.monotonic()
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        peaks = Peaks(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        for orphan in children(os.getpid()) - bystanders:  # skopeo, told to end, may still be at it
            _, _, usage = os.wait4(orphan, 0)
            cpu += usage.ru_utime + usage.ru_stime
        memory = peaks.stop()
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, arguments))}\nexit code {process.returncode}\n{said.read().decode(errors='replace')}")
    own = memory.pop(process.pid, ("", 0))[1]
    helpers = max((peak for _, peak in memory.values()), default=0)
    return dict(wall_s=wall, cpu_s=cpu, peak_mib=own / 1024, helper_peak_mib=helpers / 1024)


def children(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


class Peaks(threading.Thread):
    """Samples VmHWM, which only grows, of a process and of everything below it: {pid: (name, kB)}."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.seen, self.ended = pid, {}, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(0.005):
            self.sample(self.pid)

    def sample(self, pid):
        try:
            fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
            if "VmHWM" in fields:
                self.seen[pid] = (fields["Name"], int(fields["VmHWM"].split()[0]))
            for child in children(pid):
                self.sample(child)
        except (OSError, ValueError):
            pass  # it ended meanwhile

    def stop(self):
        self.ended.set()
        self.join()
        return self.seen


class Registry:
    """Debian's docker-registry on a free port of 127.0.0.1, with every image of the layout."""

    def __init__(self, layout):
        self.folder = tempfile.TemporaryDirectory(prefix="cfs-dag-bench-registry-", dir="/dev/shm")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = Path(self.folder.name, "config.yml")
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder.name}/data}}}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)
        for entry in json.loads(Path(layout, "index.json").read_text())["manifests"]:
            name = entry["annotations"]["org.opencontainers.image.ref.name"]
            copy = ["skopeo", "copy", "-q", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
            subprocess.run(copy + [f"oci:{layout}:{name}", self.reference(name)], check=True)

    def reference(self, name):
        return f"docker://127.0.0.1:{self.port}/{name}:latest"

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


# --- reporting


def ratios(result, metric):
    return [theirs[metric] / ours[metric] for ours, theirs in zip(result["ours"], result["theirs"])]


def spread(values, form):
    return "/".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def table(results, header=True):
    """Markdown: min/median/max of each side, and of the ratios by pairs."""
    lines = []
    if header:
        lines += ["| case | on | wall s, ours | theirs | ratio | cpu s, ours | theirs | ratio | target | cpu / floor | peak MiB, ours (allowed) | theirs |"]
        lines += ["|" + "---|" * 12]
    for result in results:
        cells = [f"{result['name']}: {result['says']}", result["place"]]
        for metric in ("wall_s", "cpu_s"):
            cells += [spread([run[metric] for run in result[side]], "{:.2f}") for side in ("ours", "theirs")]
            cells += [spread(ratios(result, metric), "{:.2f}")]
        cells += [verdict(result), floor_verdict(result)]
        ours, allowed = peak(result, "ours"), result["allowed_mib"]
        cells += [f"{ours:.0f} (at most {allowed:.0f}: {met(ours <= allowed)})", f"{peak(result, 'theirs'):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(result):
    if not (target := result.get("target")):
        return ""
    medians = [statistics.median(ratios(result, metric)) for metric in ("wall_s", "cpu_s")]
    return " / ".join(f"{least:g} {met(median >= least)}" for least, median in zip(target, medians))


def floor_verdict(result):
    ratios = [ours["cpu_s"] / floor["sum"] for ours, floor in zip(result["ours"], result["floor"])]
    if not ratios:
        return ""
    return f"{spread(ratios, '{:.2f}')} (at most {FLOOR_TARGET}: {met(statistics.median(ratios) <= FLOOR_TARGET)})"


def met(condition):
    return "met" if condition else "MISSED"


def peak(result, side):
    return max(run["peak_mib"] for run in result[side])


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return dict(cpu=cpu, cores=len(os.sched_getaffinity(0)), memory_gib=round(memory, 1), kernel=platform.release())


def versions(options):
    say = lambda *words: subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return dict(
        cfs_dag=say(options.ours, "--version") + " " + say("git", "describe", "--always", "--dirty"), upstream="composefs-oci 0.9.4", rustc=say("rustc", "--version"),
        skopeo=say("skopeo", "--version"), pairs=options.pairs,
    )


def image_sizes(layout):
    blob = lambda digest: Path(layout, "blobs", digest.replace(":", "/"))
    sizes = {}
    for entry in json.loads(Path(layout, "index.json").read_text())["manifests"]:
        layers = json.loads(blob(entry["digest"]).read_text())["layers"]
        name = entry["annotations"]["org.opencontainers.image.ref.name"]
        compressed = round(sum(layer["size"] for layer in layers) / 1e6, 1)
        sizes[name] = dict(layers=len(layers), compressed_mb=compressed, entries=sum(entries_of(blob(layer["digest"])) for layer in layers))
    return sizes


@functools.cache
def entries_of(blob):
    listing = subprocess.Popen(["tar", "--zstd" if blob.open("rb").read(1) == b"\x28" else "-z", "-tf", blob], stdout=subprocess.PIPE)
    entries = sum(1 for _ in listing.stdout)
    if listing.wait() != 0:
        sys.exit(f"tar cannot list {blob}")
    return entries


def write_reports(results, curves, options, layout):
    options.out.mkdir(parents=True, exist_ok=True)
    report = dict(machine=machine(), versions=versions(options), images=image_sizes(layout), results=results, scaling=curves)
    (options.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    facts = [f"{key}: {value}" for part in ("machine", "versions") for key, value in report[part].items()]
    text = ["Values are min/median/max; ratios are theirs / ours, by pairs.", table(results), "; ".join(facts)]
    if curves:
        (options.out / "scaling.svg").write_text(lines(curves))
        text += [scaling_table(curves)]
    (options.out / "results.md").write_text("\n\n".join(text) + "\n")
    (options.out / "results.svg").write_text(bars(results))


def scaling_table(curves):
    workers = sorted(map(int, curves[0]["replayed"]))
    rows = ["| pull | work s | longest chain s | " + " | ".join(f"{n} workers" for n in workers) + " | really: 1, 2 |"]
    rows += ["|" + "---|" * (len(workers) + 4)]
    for curve in curves:
        chain = ", ".join(f"{part} {cost:.2f}" for part, cost in curve["chain"].items())
        replayed = [f"{curve['replayed'][str(n)]:.2f}" for n in workers]
        real = ", ".join(f"{wall:.2f}" for wall in curve["real"].values())
        rows.append(f"| {curve['name']} | {curve['work']:.2f} | {chain} | " + " | ".join(replayed) + f" | {real} |")
    return "\n".join(rows)


def lines(curves):
    """How many times faster than on one worker, over the number of workers (both logarithmic)."""
    left, top, width, height = 50, 30, 420, 260
    workers = sorted(map(int, curves[0]["replayed"]))
    across = lambda n: left + width * math.log2(n) / math.log2(workers[-1])
    up = lambda gain: top + height * (1 - math.log2(gain) / math.log2(workers[-1]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{top + height + 50}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="18">times faster than on one worker (replayed; dashed: as many times as workers)</text>',
        f'<line x1="{across(1)}" y1="{up(1)}" x2="{across(workers[-1])}" y2="{up(workers[-1])}" stroke="#999" stroke-dasharray="4"/>',
    ]
    for n in workers:
        parts.append(f'<text x="{across(n)}" y="{top + height + 18}" text-anchor="middle">{n}</text>')
        parts.append(f'<text x="{left - 8}" y="{up(n) + 4}" text-anchor="end">{n}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">workers</text>')
    for curve, colour in zip(curves, ("#2b6cb0", "#c05621", "#2f855a")):
        gains = [(n, curve["replayed"]["1"] / curve["replayed"][str(n)]) for n in workers]
        points = " ".join(f"{across(n):.1f},{up(gain):.1f}" for n, gain in gains)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + width + 6}" y="{up(gains[-1][1]) + 4:.1f}" fill="{colour}">{curve["name"]} {gains[-1][1]:.1f}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def bars(results):
    """Median ratios as bars, wall and cpu, with a line at 1: no faster than upstream."""
    label, width, row = 250, 420, 40
    medians = [(r, statistics.median(ratios(r, "wall_s")), statistics.median(ratios(r, "cpu_s"))) for r in results]
    longest = max(value for _, *pair in medians for value in pair)
    shown = min(longest, 8.0)  # the warm case would squeeze all others: its bars are cut
    at = lambda value: width * min(value, shown) / shown
    height = row * len(results) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{label + width + 70}" height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{label}" y="18">upstream / cfs-dag: <tspan fill="#2b6cb0">wall time</tspan>, <tspan fill="#c05621">cpu time</tspan></text>',
    ]
    for index, (result, wall, cpu) in enumerate(medians):
        top = 30 + row * index
        parts.append(f'<text x="{label - 8}" y="{top + 20}" text-anchor="end">{result["name"]}, {result["place"]}</text>')
        for offset, value, colour in ((2, wall, "#2b6cb0"), (17, cpu, "#c05621")):
            parts.append(f'<rect x="{label}" y="{top + offset}" width="{at(value):.1f}" height="13" fill="{colour}"/>')
            parts.append(f'<text x="{label + at(value) + 5:.1f}" y="{top + offset + 11}">{value:.2f}</text>')
    parts.append(f'<line x1="{label + at(1):.1f}" y1="26" x2="{label + at(1):.1f}" y2="{height - 15}" stroke="black" stroke-dasharray="3"/>')
    return "\n".join(parts + ["</svg>"]) + "\n"


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans of what we measure become our children
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
