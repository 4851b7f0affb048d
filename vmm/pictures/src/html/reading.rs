//! A page as a browser reads it, for tests.

use std::borrow::Cow;

use scraper::{ElementRef, Html, Selector};

/// The page. One that a browser has to mend is wrong.
pub(super) fn parsed(page: &str) -> Html {
    let document = Html::parse_document(page);
    assert_eq!(document.errors, Vec::<Cow<'_, str>>::new());
    document
}

pub(super) fn select<'a>(document: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    document.select(&selector).collect()
}

/// The text of each element, with single spaces, and one between what stands in two elements.
pub(super) fn texts(document: &Html, selector: &str) -> Vec<String> {
    let words = |element: &ElementRef<'_>| {
        let text: Vec<&str> = element.text().flat_map(str::split_whitespace).collect();
        text.join(" ")
    };
    select(document, selector).iter().map(words).collect()
}

/// Each heading is at most one level below the one before, each table has a caption, and each picture has a name or is
/// for the eye alone.
pub(super) fn assert_in_order(document: &Html) {
    let mut above = 0;
    for heading in select(document, "h1, h2, h3, h4") {
        let level: u8 = heading.value().name()[1..].parse().unwrap();
        assert!(level <= above + 1, "{}", heading.html());
        above = level;
    }
    let caption = Selector::parse("caption").unwrap();
    for table in select(document, "table") {
        assert!(table.select(&caption).next().is_some(), "{}", table.html());
    }
    for svg in select(document, "svg") {
        let attr = |name| svg.value().attr(name);
        let named = attr("role") == Some("img") && attr("aria-label").is_some();
        assert!(
            named || attr("aria-hidden") == Some("true"),
            "{}",
            svg.html()
        );
    }
}

/// Nothing is fetched, nothing is run, links stay in the page, and the page forbids the browser all of it.
pub(super) fn assert_alone(document: &Html) {
    let fetches =
        "script, [onload], main style, [src], link, iframe, object, embed, img, base, form";
    let found = select(document, fetches);
    assert!(found.is_empty(), "{}", found[0].html());
    for link in select(document, "[href]") {
        assert!(link.value().attr("href").unwrap().starts_with('#'));
    }
    let policy = select(document, "meta[http-equiv=Content-Security-Policy]");
    let policy = policy[0].value().attr("content").unwrap();
    assert_eq!(policy, "default-src 'none'; style-src 'unsafe-inline'");
}

/// Each of `places` has an element in whose text `shown` is.
pub(super) fn assert_shown(document: &Html, shown: &str, places: &[&str]) {
    for place in places {
        let found = select(document, place);
        let mut found = found
            .iter()
            .map(|element| element.text().collect::<String>());
        assert!(found.any(|text| text.contains(shown)), "{place}");
    }
}
