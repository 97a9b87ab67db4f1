"""A report page in Chromium: what it shows first, what its panels do, what axe-core says of it, and what the console does.

  python -m benchmarks.report_in_browser results/reproduce/report.html --axe=axe.min.js --screenshots=/tmp/shots

Needs selenium, Chromium with its driver (Debian: chromium, chromium-driver) and axe.min.js of the npm package axe-core. Exits with
status 1 and a line for each thing that is wrong.
"""

import argparse
import json
import pathlib
import shutil
import sys
import time

SIZES = {"desktop": (1300, 800), "narrow": (400, 800)}


def browser(width, height, scheme):
  """Chromium without a window, as wide and as dark as asked for, without a network."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  for one in (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--proxy-server=127.0.0.1:9",
    f"--window-size={width},{height}",
  ):
    options.add_argument(one)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
  driver.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride", dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
  )
  driver.execute_cdp_cmd(
    "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
  )
  return driver


def above_the_fold(driver) -> str:
  """Whether the answers, and the beginning of the matrix, are on the first screen; what is not, or ""."""
  ends = driver.execute_script(
    "return [...document.querySelectorAll('#answer + ul li, .meaning li, .matrix tbody tr:first-of-type')]"
    ".map(one => one.getBoundingClientRect().bottom)"
  )
  return (
    "" if ends and max(ends) <= driver.execute_script("return innerHeight") else f"the answer ends at {max(ends)} px"
  )


def panels(driver) -> list[str]:
  """Every panel draws itself; choosing another metric, cell or axis draws another chart; pointing shows numbers."""
  return [wrong for panel in driver.find_elements("css selector", ".panel") for wrong in _panel(driver, panel)]


def _panel(driver, panel) -> list[str]:
  from selenium.webdriver import ActionChains
  from selenium.webdriver.support.ui import Select

  name, wrong = panel.get_attribute("aria-label"), []
  driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
  find = lambda what: panel.find_elements("css selector", f".chart svg {what}")
  chart = lambda: find("")[0].get_attribute("outerHTML")
  if not _until(lambda: find(".mark-line path")):
    return [f"{name}: nothing is drawn"]
  for control in panel.find_elements("css selector", "select, input"):
    before, is_box = chart(), control.tag_name == "input"
    if not control.is_enabled():  # no log of what is negative
      continue
    if is_box:
      control.click()
    elif len(Select(control).options) > 1:
      Select(control).select_by_index(1)
    if (is_box or len(Select(control).options) > 1) and not _until(lambda before=before: chart() != before):
      wrong.append(f"{name}: {control.tag_name} changes nothing")
  points = ".mark-symbol path[aria-label*='mean: ']"
  if not _until(lambda: find(points)):
    return [*wrong, f"{name}: no points"]
  ActionChains(driver).move_to_element(find(points)[len(find(points)) // 2]).perform()
  said = lambda: driver.execute_script("return document.querySelector('#vg-tooltip-element.visible')?.innerText ?? ''")
  if not _until(lambda: "95% interval" in said() and "runs that stayed finite" in said()):
    wrong.append(f"{name}: pointing shows {said()!r}")
  place = driver.execute_script("return document.getElementById('vg-tooltip-element').getBoundingClientRect().toJSON()")
  if place["left"] < 0 or place["right"] > driver.execute_script("return innerWidth"):
    wrong.append(f"{name}: what is pointed at is told from {place['left']:.0f} to {place['right']:.0f} px")
  return wrong


def _until(holds, seconds=5.0) -> bool:
  from selenium.common.exceptions import WebDriverException

  end = time.monotonic() + seconds
  while time.monotonic() < end:
    try:
      if holds():
        return True
    except WebDriverException:  # drawn anew in between
      pass
    time.sleep(0.05)
  return False


def violations(driver, axe) -> list[str]:
  driver.execute_script(axe)
  driver.set_script_timeout(120)
  found = driver.execute_async_script(
    "const done = arguments[0]; axe.run().then(done, error => done({error: String(error)}))"
  )
  if "error" in found:
    return [f"axe: {found['error']}"]
  return [
    f"axe: {one['id']} ({len(one['nodes'])}): {one['help']}: {one['nodes'][0]['html'][:160]}"
    for one in found["violations"]
  ]


def without_scripts(driver, page) -> list[str]:
  """What somebody sees whose browser runs none."""
  driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
  driver.get(page)
  shown = driver.find_elements("css selector", ".panel:not([hidden])")
  images = driver.find_elements("css selector", "img")
  driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
  return (["panels show without scripts"] if shown else []) + ([] if images else ["no figure without scripts"])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("page", type=pathlib.Path)
  parser.add_argument("--axe", type=pathlib.Path, required=True, help="axe.min.js")
  parser.add_argument("--screenshots", type=pathlib.Path, help="directory to write them to")
  options = parser.parse_args()
  page, axe = options.page.resolve().as_uri(), options.axe.read_text(encoding="utf-8")
  wrong = []
  for scheme in ("light", "dark"):
    for name, (width, height) in SIZES.items():
      driver = browser(width, height, scheme)
      try:
        driver.get(page)
        found = [above_the_fold(driver)] if name == "desktop" else []
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        found += [f"the page is {wide} px wide"] if wide > width else []
        if options.screenshots:
          options.screenshots.mkdir(parents=True, exist_ok=True)
          driver.save_screenshot(str(options.screenshots / f"{name}_{scheme}.png"))
        found += panels(driver)
        if options.screenshots and driver.find_elements("css selector", ".panel"):
          driver.execute_script("document.querySelector('.panel').scrollIntoView()")
          time.sleep(0.5)
          driver.save_screenshot(str(options.screenshots / f"{name}_{scheme}_panel.png"))
        driver.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        found += violations(driver, axe)
        found += [f"console: {json.dumps(line['message'])[:300]}" for line in driver.get_log("browser")]
        if name == "desktop" and scheme == "light":
          found += without_scripts(driver, page)
        found = [f"{name}, {scheme}: {one}" for one in found if one]
        print("\n".join(found or [f"{name}, {scheme}: nothing wrong"]), flush=True)
        wrong += found
      finally:
        driver.quit()
  sys.exit(bool(wrong))


if __name__ == "__main__":
  main()
