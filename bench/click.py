"""The time from the click on *Segment* to the lesions on the image, in a real browser.

    python -m bench.click

A study of 256 x 256 x 176 and the default model on the newest viewer, with everything on this machine.
The server's time is that from the job's creation to its end. The rest is the viewer's: polling, fetching
the SEG and drawing it. The first click also waits for the model to load, so it is reported separately.
"""

import argparse
import sys
import time
from datetime import datetime
from statistics import median

from playwright.sync_api import sync_playwright

from bench.viewer import CHROMIUM, FLAGS, NEWEST, SEED, SHAPE, SPACING_MM, Site
from unetr.synthesis import metastases

CLICKS = 5
GOAL_S, SERVER_GOAL_S = 12.0, 5.0
LIMIT_MS = 120_000
LOOK_MS = 5000


def main() -> int:
    argparse.ArgumentParser(
        description="Time from the click on Segment to the lesions on the image."
    ).parse_args()
    site = Site(NEWEST)
    try:
        studies = [
            site.add(metastases.head(metastases.grid(SHAPE, SPACING_MM), SEED + n).image)
            for n in range(CLICKS)
        ]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_context(viewport={"width": 1600, "height": 900}, locale="en-GB").new_page()
            page.set_default_timeout(LIMIT_MS)
            page.goto(f"{site.url}/login")
            page.get_by_label("Your token").fill(site.token)
            page.get_by_role("button", name="Open").click()
            measured = []
            for study in studies:
                page.goto(f"{site.url}/metscope?StudyInstanceUIDs={study}")
                panel = page.locator(".metscope")
                panel.get_by_text("This study has not been segmented.").wait_for()
                # The viewer fetches and decodes the images first, with or without MetScope.
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(LOOK_MS)
                started = time.perf_counter()
                panel.get_by_role("button", name="Segment").click()
                panel.get_by_role("button", name="Hide").wait_for()
                whole_s = time.perf_counter() - started
                job = site.ask("/jobs?limit=1")["jobs"][0]
                begun, ended = (datetime.fromisoformat(job[at]) for at in ("created_at", "finished_at"))
                measured.append((whole_s, (ended - begun).total_seconds()))
                timings_s = site.ask(job["result"])["timings_s"]
                stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in timings_s.items())
                print(
                    f"click to overlay {whole_s:.1f} s, server {measured[-1][1]:.1f} s: {stages}", flush=True
                )
            browser.close()
    finally:
        site.close()
    first, rest = measured[0], measured[1:]
    whole_s, server_s = median(click[0] for click in rest), median(click[1] for click in rest)
    viewer_s = median(click[0] - click[1] for click in rest)
    print(f"first {first[0]:.1f} s; then, by the median, {whole_s:.1f} s (goal {GOAL_S:.0f} s):")
    print(f"server {server_s:.1f} s (goal {SERVER_GOAL_S:.0f} s), viewer {viewer_s:.1f} s")
    return int(whole_s > GOAL_S or server_s > SERVER_GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
